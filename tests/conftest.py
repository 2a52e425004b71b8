"""Networks with random weights from fixed seeds, a record of everything a network is made of, and small cohorts."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from train_phantom_models import new_model

CLASSES = 5

collect_ignore_glob = ["*keras_cases.py"]
"""Run by their test_keras.py in a process of their own; collecting them here for doctests would import Keras."""


def enliven(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give random values to what training would have changed: zero weights and biases, batch-norm statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return net.eval()


def plain(dims: int = 2, *, size: int = 12, channels: int = 2) -> nn.Module:
    """Convolutions, then flatten and a linear layer: every place and channel weighs differently. Layer '3'."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    cells = ((size - 2 - 3) // 2 + 1) ** dims
    return nn.Sequential(
        conv(channels, 6, 3), nn.ReLU(), conv(6, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * cells, CLASSES)
    )


def pooled(*, channels: int = 3) -> nn.Module:
    """Convolutions with batch norm, dropout and in-place ReLUs, global average pooling, linear. Layer '5'."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(8, 12, 3, 2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def vgg11() -> nn.Module:
    """torchvision's VGG-11 with a small classifier, made without filling 100 million weights."""
    with torch.device("meta"):
        net = torchvision.models.vgg11(init_weights=False)
        net.classifier = nn.Sequential(nn.Linear(512 * 49, 24), nn.ReLU(inplace=True), nn.Linear(24, CLASSES))
    net.to_empty(device="cpu")
    for parameter in net.parameters():
        nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else nn.init.normal_(parameter, std=0.1)
    return net


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=CLASSES
    )


def small_vit(**more: Any) -> nn.Module:
    options = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": CLASSES}
    return timm.models.vision_transformer.VisionTransformer(**options | more)


def small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2), num_init_features=16, num_classes=CLASSES)


def small_resnet() -> nn.Module:
    return timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, [1, 1, 1, 2], channels=(8, 16, 24, 32), stem_width=8, num_classes=CLASSES
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "plain 1-D": lambda: plain(1),
    "plain 3-D": lambda: plain(3),
    "pooled": pooled,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
    "vgg11": vgg11,
    "densenet121": lambda: torchvision.models.densenet121(num_classes=CLASSES),
    "small densenet": small_densenet,
    "small resnet": small_resnet,
    "convnext_tiny": lambda: torchvision.models.convnext_tiny(num_classes=CLASSES),
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=CLASSES),
    "small vit": small_vit,
    "small swin": small_swin,
}


@pytest.fixture(scope="session")
def make_net() -> Callable[..., nn.Module]:
    """By name a network of its own: float64, eval mode, random weights that are the same each time."""
    made: dict[str, nn.Module] = {}

    def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                made[name] = enliven(NETS[name]())
        return copy.deepcopy(made[name]).to(dtype)

    return make


@pytest.fixture(scope="session")
def shared_net(make_net: Callable[..., nn.Module]) -> Callable[[str], nn.Module]:
    """By name a network that all tests share and none may change: float64, eval mode."""
    return functools.cache(make_net)


@pytest.fixture
def pictures() -> Callable[..., Tensor]:
    """Random images, the same each time: float64 unless asked otherwise."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

    return make


@pytest.fixture
def snapshot() -> Callable[[nn.Module], Any]:
    """Everything that a network is made of, to the bit and to the object; equal when nothing has changed."""
    return _snapshot


def _snapshot(net: nn.Module) -> list[Any]:
    seen: list[Any] = []
    for name, module in net.named_modules():
        hooks = {key: tuple(value) for key, value in vars(module).items() if key.endswith("hooks")}
        own = {key: id(value) for key, value in vars(module).items() if not key.startswith("_")}
        seen.append((name, id(module), module.training, hooks, own))
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        grad = None if tensor.grad is None else (id(tensor.grad), _bits(tensor.grad))
        seen.append((name, id(tensor), tensor.data_ptr(), tensor.requires_grad, tensor.is_leaf, _bits(tensor), grad))
    return seen


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a small untrained network of one class, by the name of the class and a seed."""
    made: dict[tuple[str, int], Path] = {}

    def make(label: str, seed: int = 0) -> Path:
        if (label, seed) not in made:
            made[label, seed] = new_model(label, seed=seed).save(tmp_path_factory.mktemp("bundles") / label.lower())
        return made[label, seed]

    return make


@pytest.fixture
def make_study(tmp_path: Path, make_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a cohort of small random images with a study file of two labels, and returns the file.

    Two images a patient, AP and PA; image n has the first label where n is even, the second where n % 4 < 2.
    """

    def make(count: int = 8, *, folder: str = "cohort", explain: str = "", **models: Path) -> Path:
        place = tmp_path / folder
        draw = np.random.default_rng(0)
        lines = ["path,patient_id,view,effusion,nodule,box"]
        for n in range(count):
            name = f"P{n // 2:03}/{'AP' if n % 2 else 'PA'}.png"
            (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 255, (40, 48), np.uint8)).save(place / "images" / name)
            view = Path(name).stem
            lines.append(f'{name},P{n // 2:03},{view},{int(n % 2 == 0)},{int(n % 4 < 2)},"4,4,20,24"')
        (place / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        study = place / "study.toml"
        study.write_text(
            f"""\
[cohort]
table = "cohort.csv"
root = "images"
image = "path"
patient = "patient_id"
group = "view"
[labels.Effusion]
column = "effusion"
mask = "box"
model = "{models.get("effusion", make_bundle("Effusion"))}"
[labels.Nodule]
column = "nodule"
model = "{models.get("nodule", make_bundle("Nodule"))}"
[explain]
{explain}
[audit]
disease = ["mask:label"]
shortcuts = ["border:0.10"]
""",
            encoding="utf-8",
        )
        return study

    return make
