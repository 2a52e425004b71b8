"""Loading a model changes no setting of the process that other code depends on."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

_CHECK = """
import builtins
import logging
import sys

import PIL.Image
import numpy as np
import torch

import camscope as cs


def settings():
    return {
        "NumPy's printing": repr(np.array([0.5, 2 / 3])),
        "PyTorch's printing": repr(torch.tensor([1e-6, 2 / 3])),
        "printing": (str(np.get_printoptions()), str(torch._tensor_str.PRINT_OPTS)),
        "errors": (np.geterr(), sys.excepthook),
        "PyTorch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
        "functions": (PIL.Image.open, torch.save, torch.load, builtins.open),
        "streams": (sys.stdout, sys.stderr),
        "logging": (logging.getLogger().level, list(logging.getLogger().handlers)),
    }


for spec in sys.argv[1:]:
    before = settings()
    cs.load(spec, weights="none")
    after = settings()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"{spec} changed {changed}"
"""
_SPECS = {
    "timm": "timm:resnet10t",
    "torchvision": "torchvision:squeezenet1_1",
    "ultralytics": "ultralytics:yolov8n",
    "segmentation_models_pytorch": "smp:unet/resnet18",
    "keras": "keras:MobileNet",
}


@pytest.mark.slow
def test_settings_are_as_they_were():
    specs = [spec for package, spec in _SPECS.items() if find_spec(package)]
    ran = subprocess.run([sys.executable, "-c", _CHECK, *specs], capture_output=True, text=True, check=False)
    assert specs
    assert ran.returncode == 0, ran.stderr
