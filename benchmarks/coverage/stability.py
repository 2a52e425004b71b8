"""Is the default layer one fact per network? The same question with other images, batches, weights and dtypes.

    python benchmarks/coverage/stability.py                     # torchvision's classifiers, one network per timm family
    python benchmarks/coverage/stability.py --only torchvision --names resnet18

Each network is asked afresh for 6 images (a real or smooth one, constant, black, white, noise, one dot) and 4 kinds of
weights (as made; a new head; biases so low that nearly all activations are 0; other norms, as after training), in
batches of 1 and 2 and in bfloat16. Networks of more than 20 million parameters see images of 128 x 128 pixels where
they accept these. Rows are kept in stability.json as they come.

The probe runs a copy of the network with weights of its own on images of its own. For each question the copy's tensors
and inputs are made and hashed; where both were asked before, bit for bit, the answer of that run is counted again
instead of computed. "runs" says how many runs differed.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import nets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from camscope.errors import LayerError
from camscope.models import layer_choice, probe
from camscope.trace import tensors

HERE = Path(__file__).parent
_LARGE = 20e6
_SMALL = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["torchvision", "timm"], default=["torchvision", "timm"])
    parser.add_argument("--names", nargs="+", help="these architectures")
    parser.add_argument("--pictures", type=Path, help="a folder with real images")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time; run again to go on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path, end = HERE / "stability.json", time.monotonic() + asked.seconds
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for case in cases(asked):
        key = f"{case.group}:{case.name}"
        if key in rows or time.monotonic() > end:
            continue
        rows[key] = attempt(case, asked)
        print(key, rows[key], flush=True)
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
        path.write_text(f"{{\n{lines}\n}}\n")
    one = sum(len(row["layers"]) == 1 for row in rows.values())
    print(
        f"one answer: {one} of {len(rows)} networks, {sum(sum(r['layers'].values()) for r in rows.values())} questions"
    )


def cases(asked: argparse.Namespace) -> Iterator[nets.Case]:
    """The networks, torchvision's first."""
    if "torchvision" in asked.only:
        yield from (c for c in nets.torchvision_models("models") if not asked.names or c.name in asked.names)
    if "timm" in asked.only:
        models = nets.timm_models(nets.timm_parameters(), whole=False, largest=10**12)
        yield from (c for c in models if not asked.names or c.name in asked.names)


def attempt(case: nets.Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Every answer for one network, how often it was given, and in how many different runs."""
    torch.manual_seed(0)
    net, x = case.make()
    if sum(p.numel() for p in net.parameters()) > _LARGE:
        x = smaller(net, x)
    answers: Counter[str] = Counter()
    runs: dict[str, str] = {}
    for number, variant in enumerate(weights(net)):
        for image in images(tuple(x.shape[1:]), asked.pictures):
            answers[ask(variant, image[None], runs)] += 1
        answers[ask(variant, torch.cat([x, x]), runs)] += 1
        if number == 0:
            answers[ask(copy.deepcopy(variant).bfloat16(), x.bfloat16(), runs)] += 1
    return {"layers": dict(answers), "runs": len(runs), "input": list(x.shape[1:])}


def smaller(net: nn.Module, x: Tensor) -> Tensor:
    """An image of 128 x 128 pixels, or the given one where the network takes no other."""
    less = nn.functional.interpolate(x, (_SMALL, _SMALL))
    try:
        with torch.inference_mode():
            net(less)
    except (RuntimeError, AssertionError, ValueError):
        return x
    return less


class _Known(BaseException):
    """The probe is about to run what it ran before, with this answer."""


def ask(net: nn.Module, x: Tensor, runs: dict[str, str]) -> str:
    """The default layer, found anew unless the probe's network and inputs are those of one of these runs."""
    layer_choice._choices.clear()
    begun: list[str] = []
    watch = probe.watch

    def watched(replica: nn.Module, leaves: Any, **settings: Any) -> Any:
        state = hashlib.blake2b()
        for name, tensor in [*replica.named_parameters(), *replica.named_buffers()]:
            state.update(name.encode() + bits(tensor))
        for tensor in tensors(leaves):
            state.update(bits(tensor))
        begun.append(state.hexdigest())
        if begun[0] in runs:
            raise _Known(runs[begun[0]])
        return watch(replica, leaves, **settings)

    with mock.patch.object(probe, "watch", watched):
        try:
            answer = layer_choice.default_layer(net, x)
        except LayerError as error:
            answer = f"error: {error}"[:200]
        except _Known as known:
            return str(known)
    runs[begun[0]] = answer
    return answer


def bits(tensor: Tensor) -> bytes:
    """The shape, dtype and content of a tensor."""
    flat = tensor.detach().contiguous().view(-1)
    return f"{tuple(tensor.shape)} {tensor.dtype}".encode() + flat.view(torch.uint8).numpy().tobytes()


def weights(net: nn.Module) -> Iterator[nn.Module]:
    """The network as it was made, and with three other kinds of weights; structure and head stay."""
    yield net.eval()
    for kind in ("new head", "dead", "trained"):
        generator = torch.Generator().manual_seed(1)
        last = [p for p in net.parameters() if p.ndim == 2][-1:]
        with torch.no_grad():
            for name, p in net.named_parameters():
                noise = torch.randn(p.shape, generator=generator)
                if kind == "dead" and name.endswith("bias"):
                    p.fill_(-5.0)
                elif kind == "trained":
                    p.mul_(1 + 0.5 * noise)
                elif kind == "new head" and any(p is one for one in last):
                    p.copy_(0.001 * noise)
        yield net


def images(shape: tuple[int, ...], folder: Path | None) -> Iterator[Tensor]:
    """Six images: real or smooth, constant, black, white, noise, and a single bright dot."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    real = noise.cumsum(-1).cumsum(-2) / 100
    if folder is not None:
        pixels = np.asarray(Image.open(sorted(folder.rglob("*.jp*g"))[0]).convert("RGB").resize(shape[:0:-1]))
        real = torch.tensor(pixels / 127.5 - 1, dtype=torch.float32).movedim(-1, 0)[: shape[0]]
    dot = torch.zeros(shape)
    dot[..., shape[-2] // 3, shape[-1] // 3] = 5.0
    yield from (real, torch.full(shape, 0.5), torch.zeros(shape), torch.full(shape, 2.6), noise, dot)


if __name__ == "__main__":
    main()
