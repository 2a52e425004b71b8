"""A folder of images through `camscope explain`, beside a bare loop over the same files; and its memory.

The loop opens each file with Pillow, applies the model's transform, and runs a plain eager forward in batches; it
explains nothing and writes nothing.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak
from PIL import Image
from rounds import rounds

import camscope as cs
from camscope.images import read

BATCH = 16


def folder(
    pictures: Sequence[Path], *, spec: str = "torchvision:resnet50", number: int, most: int = 200
) -> dict[str, Any]:
    """Seconds for at most so many images of some folders by both."""
    from torchvision import transforms

    kinds = (".jpg", ".jpeg", ".png")
    files = [path for place in pictures for path in sorted(place.rglob("*")) if path.suffix.lower() in kinds][:most]
    model = cs.load(spec, weights="none")
    plain = copy.deepcopy(model.net).to(memory_format=torch.contiguous_format)
    done = model.preprocess
    transform = transforms.Compose(
        [
            transforms.Resize((done.resize or done.input_size)[0]),
            transforms.CenterCrop(done.input_size),
            transforms.ToTensor(),
            transforms.Normalize(done.mean, done.std),
        ]
    )

    def loop() -> None:
        for start in range(0, len(files), BATCH):
            images = [transform(Image.open(file).convert("RGB")) for file in files[start : start + BATCH]]
            with torch.inference_mode():
                plain(torch.stack(images))

    def explained() -> None:
        with tempfile.TemporaryDirectory() as out:
            command(model, files, Path(out))

    timed = rounds({"bare loop": loop, "camscope explain": explained}, base="bare loop", number=number)
    return {"pictures": len(files), "side": int(read(str(files[0])).size[0]), **timed}


def command(model: cs.Model, files: list[Path], out: Path) -> None:
    """`camscope explain FILES --write overlay`, less the start of the process and the loading of the model."""
    from unittest import mock

    from camscope.cli import explain

    with mock.patch("camscope.cli.explain.load_noted", return_value=model), mock.patch("builtins.print"):
        try:
            explain.explain([str(file) for file in files], "ready", out, write="overlay", batch_size=BATCH)
        except BaseException as end:  # the command ends by raising its exit status
            if getattr(end, "exit_code", 1):
                raise


def memory(number: int) -> dict[str, int]:
    """Peak MB after 500 images and after all, of small images and a tiny network, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(number)], capture_output=True, text=True, check=True)
    early, late = map(int, done.stdout.split()[-2:])
    return {"pictures": number, "after 500": early, "at the end": late}


def main(number: int) -> None:
    """Explain that many images in memory, one after the other."""
    model = cs.load("timm:test_convnext", weights="none", classes=3, input_size=64)
    draw = np.random.default_rng(0)
    pictures = (draw.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(number))
    early = 0
    for done, _ in enumerate(cs.explain_all(model, pictures, batch_size=BATCH), 1):
        if done == 500:
            early = peak()
    print(early, peak())


if __name__ == "__main__":
    main(int(sys.argv[1]))
