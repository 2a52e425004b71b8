"""Measure what every method costs, in forward passes of the same network: python benchmarks/speed/costs.py

Writes costs.json next to it, which docs/generate.py shows in docs/methods.md and `camscope methods`; methods that the
file has are not measured again. One image of 224 x 224 pixels; a ResNet-18, or, for methods that need another kind of
network, a small transformer or ConvNeXt.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rounds import machine, rounds

import camscope as cs
from camscope.errors import CamscopeError
from camscope.methods import META, METHODS

COSTS = Path(__file__).with_name("costs.json")
NETWORKS = ("torchvision:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto")
LONG = 5.0  # seconds; a method that takes longer is timed once, between forward passes


def main() -> None:
    torch.manual_seed(0)
    nets = {name: cs.load(name, weights="none").net for name in NETWORKS}
    x = torch.randn(1, 3, 224, 224)
    costs: dict[str, Any] = json.loads(COSTS.read_text("utf-8"))["costs"] if COSTS.exists() else {}
    for method in (*METHODS, *(f"{name}(gradcam)" for name in META)):
        if method not in costs:
            costs[method] = timed(nets, x, method)
            print(method, costs[method], flush=True)
            content = {"machine": machine(), "costs": costs}
            COSTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def timed(nets: dict[str, torch.nn.Module], x: torch.Tensor, method: str) -> dict[str, Any]:
    """Return the time of a map in forward passes, on the first network to which the method applies."""
    for name, net in nets.items():
        contenders = {"forward": partial(forward, net, x), "method": partial(cs.cam, net, x, method=method, targets=3)}
        passes = {"forward": contenders["forward"]}
        before = rounds(passes, base="forward", number=9)["forward"]["seconds"]
        start = time.perf_counter()
        try:
            contenders["method"]()
        except CamscopeError:
            continue
        seconds = time.perf_counter() - start
        if seconds > LONG:
            after = rounds(passes, base="forward", number=9)["forward"]["seconds"]
            ratio = 2 * seconds / (before + after)
        else:
            ratio = rounds(contenders, base="forward", number=9)["method"]["ratio"]
        return {"network": name.partition(":")[2], "ratio": round(ratio, 2)}
    raise SystemExit(f"no network for {method}")


def forward(net: torch.nn.Module, x: torch.Tensor) -> None:
    """Run the plain forward pass."""
    with torch.inference_mode():
        net(x)


if __name__ == "__main__":
    main()
