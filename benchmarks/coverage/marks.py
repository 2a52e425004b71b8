"""Does the default map find a planted mark, in networks of every kind that people bring?

    python benchmarks/coverage/marks.py                  # all kinds
    python benchmarks/coverage/marks.py --only video

Each network is trained here for a minute to tell two marks apart (a bright square, box or patch at a random place in
noise); then 40 new inputs are explained with nothing named but the input. A map finds the mark if its highest value
lies within one cell of it. `chance` is the share of places that count as found. marks.md is written at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import marked_nets
import torch
from marked_nets import Kind, marked
from torch import nn

from camscope.heatmap import upsample

HERE = Path(__file__).parent
ASKED = 40
HEAD = """# Does the default map find a planted mark?

Networks of every kind that people bring, trained for a minute to tell two marks apart, explained with nothing named but
the input. `found`: of 40 inputs, the highest value of the map lies within a cell of the mark; `chance`: the share of
places that count so. `mass`: the share of the map's positive part inside the mark; `area`: the share of the input that
the mark takes. Written by `benchmarks/coverage/marks.py`.

| network | default layer | grid | found | chance | mass | area |
|---|---|---|---|---|---|---|
"""
TAIL = """

Losses, with less of the map in the mark than the mark takes of the input: {losses}.
"""


def trained(kind: Kind) -> nn.Module:
    """The network after its minute of training."""
    torch.manual_seed(0)
    net = kind.make().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 0.3
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in range(kind.steps):
        optimiser.zero_grad()
        kind.loss(net, *marked(kind, 16, step)).backward()
        optimiser.step()
    return net.eval()


def attempt(kind: Kind) -> dict[str, Any]:
    """The row of one kind."""
    net = trained(kind)
    x, classes, masks = marked(kind, ASKED, 10**6)
    maps, layer = kind.explain(net, x, classes)
    grid = tuple(maps.shape[1:])
    cell = [-(-n // g) for n, g in zip(kind.space, grid, strict=True)]
    pool = nn.functional.max_pool3d if len(grid) == 3 else nn.functional.max_pool2d
    near = pool(masks[:, None].float(), [2 * c + 1 for c in cell], 1, cell)[:, 0] > 0
    heat = upsample(maps.float().relu(), kind.space)
    peaks = heat.flatten(1).argmax(1, keepdim=True)
    hits = near.flatten(1).gather(1, peaks)[:, 0] & (heat.flatten(1).amax(1) > 0)
    mass = (heat * masks).flatten(1).sum(1) / heat.flatten(1).sum(1).clamp_min(1e-12)
    shares = {"chance": near.float().mean(), "mass": mass.mean(), "area": masks.float().mean()}
    return {"layer": layer, "grid": list(grid), "found": int(hits.sum()), **{k: float(v) for k, v in shares.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = {kind.name: kind for kind in marked_nets.kinds()}
    parser.add_argument("--only", nargs="+", choices=list(kinds), default=list(kinds), help="these kinds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "marks.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in asked.only:
        rows[name] = attempt(kinds[name])
        print(name, rows[name], flush=True)
        lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(rows[n])}" for n in kinds if n in rows)
        path.write_text(f"{{\n{lines}\n}}\n")
    (HERE / "marks.md").write_text(report(rows))


def report(rows: dict[str, Any]) -> str:
    """The table of all kinds."""
    lines = [
        f"| {name} | `{row['layer']}` | {' x '.join(map(str, row['grid']))} | {row['found']} of {ASKED} | "
        f"{row['chance']:.0%} | {row['mass']:.0%} | {row['area']:.0%} |"
        for name, row in rows.items()
    ]
    losses = [name for name, row in rows.items() if row["mass"] < row["area"]]
    return HEAD + "\n".join(lines) + TAIL.format(losses="; ".join(losses) or "none")


if __name__ == "__main__":
    main()
