"""Measure what every method costs, in forward passes of the same network: python benchmarks/speed/costs.py

Writes costs.json next to it, which docs/generate.py shows in docs/methods.md and `camscope methods`. One image of 224 x
224 pixels; a ResNet-18, or, for methods that need another kind of network, a small transformer or ConvNeXt.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from rounds import machine, rounds

import camscope as cs
from camscope.errors import CamscopeError
from camscope.methods import META, METHODS

HERE = Path(__file__).parent
NETWORKS = ("torchvision:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto")
LONG = 5.0  # seconds above which a method is timed in 2 rounds instead of 9


def main() -> None:
    torch.manual_seed(0)
    nets = {name: cs.load(name, weights="none").net for name in NETWORKS}
    x = torch.randn(1, 3, 224, 224)
    costs: dict[str, Any] = {}
    for method in (*METHODS, *(f"{name}(gradcam)" for name in META)):
        name, seconds = first_network(nets, x, method)
        contenders = {
            "forward": forward(nets[name], x),
            "method": lambda m=method, n=name: cs.cam(nets[n], x, method=m, targets=3),
        }
        timed = rounds(contenders, base="forward", number=2 if seconds > LONG else 9, warm_up=1)["method"]
        costs[method] = {"network": name.partition(":")[2]} | timed
        print(method, name, round(timed["ratio"], 2), flush=True)
    (HERE / "costs.json").write_text(
        json.dumps({"machine": machine(), "costs": costs}, indent=1) + "\n", encoding="utf-8"
    )


def first_network(nets: dict[str, torch.nn.Module], x: torch.Tensor, method: str) -> tuple[str, float]:
    """Return the first network to which a method applies, and the seconds of its second map."""
    for name, net in nets.items():
        try:
            cs.cam(net, x, method=method, targets=3)
        except CamscopeError:
            continue
        start = time.perf_counter()
        cs.cam(net, x, method=method, targets=3)
        return name, time.perf_counter() - start
    raise SystemExit(f"no network for {method}")


def forward(net: torch.nn.Module, x: torch.Tensor) -> Any:
    """Return the plain forward pass."""

    def run() -> None:
        with torch.inference_mode():
            net(x)

    return run


if __name__ == "__main__":
    main()
