"""Attacks on camscope with a known right answer: how many are met with a wrong answer, and without a word?

    python benchmarks/attacks/attacks.py                  # all, about ten minutes
    python benchmarks/attacks/attacks.py --only "a quote in a cell"

Each attack is repeated with seeded variations. `wrong`: a wrong result without an error or a note. attacks.md is
written at the end, beside what was found before the defence was built.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

import camscope as cs
from camscope.cohort.store import OK, Known, Store
from camscope.cohort.tables import read_table
from camscope.errors import CamscopeError, DamagedError
from camscope.files import read_parquet

HERE = Path(__file__).parent
PASSES = 10_000
HEAD = """# Attacks, and what they met

Each attack is repeated with seeded variations (`benchmarks/attacks/attacks.py`). `wrong`: a wrong result without an
error or a note. Before: as found when the attack was first tried, with the tries of that time.

| attack | tries | wrong | met with | before |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: as in the table.
        run: yields for each try what it was met with; "wrong" for a wrong result in silence.
        before: what was found when it was first tried.
    """

    name: str
    run: Callable[[], Iterator[str]]
    before: str


def attacks() -> list[Attack]:
    """All attacks, in the order of the table."""
    return [
        Attack("a quote in a cell", quotes, "60 rows in, 3 out"),
        Attack("predictions of another thread", predictions, "36 of about 2,700 wrong, 60 exceptions"),
        Attack("weights and settings changed behind an engine", changes, "maps off by 64 to 250 %"),
        Attack("a bit flipped in a shard", bits, "8 of 90 used"),
        Attack("foreign rows in --out", foreign, "removed, with every file that they name"),
        Attack("code in a weights file", code, "run from torchvision's cache and torchxrayvision"),
        Attack("odd settings and scores", odd, "passed without a word"),
    ]


def quotes() -> Iterator[str]:
    """A quotation mark at every place of a table of 60 rows where one may stand in a cell."""
    rows = [f"p{i},images/{i}.png,{i % 2},note {i}" for i in range(60)]
    text = "\n".join(["patient,image,label,comment", *rows]) + "\n"
    places = [i for i, letter in enumerate(text) if letter in ",\n" and i > text.index("\n")][:-1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        for place in places:
            path.write_text(f'{text[: place + 1]}"{text[place + 1 :]}')
            try:
                table, notes = read_table(str(path))
            except CamscopeError:
                yield "an error"
                continue
            yield "a note" if notes else "all rows" if len(table) == 60 else "wrong"


def predictions() -> Iterator[str]:
    """One thread explains in five ways; another predicts 10,000 times with the same network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8))
    net = net.append(nn.Linear(8, 3)).eval()
    x, stop, failed = torch.randn(2, 3, 16, 16), threading.Event(), []
    with torch.no_grad():
        expected = net(x)

    def explain() -> None:
        methods = ("ablationcam", "reciprocam", "frozennormcam", "scorecam", "refinecam")
        while not stop.is_set():
            for method in methods:
                try:
                    cs.cam(net, x, method=method, targets=1)
                except Exception as error:
                    failed.append(error)

    thread = threading.Thread(target=explain)
    thread.start()
    try:
        for _ in range(PASSES):
            with torch.no_grad():
                same = torch.equal(net(x), expected)
            yield "the same" if same else "wrong"
    finally:
        stop.set()
        thread.join()
    yield from ("an exception" for _ in failed)


def changes() -> Iterator[str]:
    """The network is changed in ways that no version counter sees; the engine's map must be the new network's."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for options in ({"engine": "openvino"}, {"precision": "bfloat16"}):
        for change in (by_data, by_numpy, by_eps, by_stride, by_module, by_momentum):
            net = body()
            cs.cam(net, x, targets=0, **options)
            change(net)
            made, right = (cs.cam(net, x, targets=0, **one) for one in (options, {}))
            close = (0.05, 0.02 * float(right.abs().max())) if "precision" in options else (1e-3, 1e-5)
            same = made.shape == right.shape and torch.allclose(made, right, *close)
            yield "the new map" if same else "wrong"


def body() -> nn.Sequential:
    """A small network with batch norm."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)).eval()


def by_data(net: Any) -> None:
    net[0].weight.data.mul_(-0.5)


def by_numpy(net: Any) -> None:
    net[0].weight.detach().numpy()[:] *= -0.5


def by_eps(net: Any) -> None:
    net[1].eps = 3.0


def by_stride(net: Any) -> None:
    net[3].stride = (2, 2)


def by_module(net: Any) -> None:
    net[2] = nn.Hardtanh(-0.2, 0.2)


def by_momentum(net: Any) -> None:
    net[1].running_var.data.mul_(9.0)


def bits() -> Iterator[str]:
    """200 bits of a shard, one at a time."""
    rows = [{"key": f"k{n}", "status": OK, "file": None, "grid": [0.5 * n, 0.25]} for n in range(40)]
    columns = {"key": pl.String, "status": pl.String, "file": pl.String, "grid": pl.List(pl.Float32)}
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "out")
        with store.locked():
            store.write("aaaa", 0, rows=rows, columns=columns)
            path = store.shards()[0]
            content = path.read_bytes()
            for _ in range(200):
                damaged = bytearray(content)
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
                path.write_bytes(damaged)
                try:
                    read_parquet(path)
                    yield "wrong"
                except DamagedError:
                    yield "an error" if len(Known([path])) == 0 else "wrong"


def foreign() -> Iterator[str]:
    """Rows of somebody else in the folder of a store, which name a file."""
    names = ["mine.parquet", "0123abcd-000007.parquet", "former/00000001-0123abcd-000000.parquet"]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "out")
            with store.locked():
                kept = Path(folder) / "out" / "precious.txt"
                kept.write_text("kept")
                path = Path(folder) / "out" / "rows" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pl.DataFrame({"key": ["k1"], "status": [OK], "file": ["precious.txt"]}).write_parquet(path)
                for plan in ("aaaa", "bbbb"):
                    store.begin(plan)
                    row = {"key": f"of {plan}", "status": OK, "file": None}
                    store.write(plan, 0, rows=[row], columns=dict.fromkeys(row, pl.String))
                    store.finish()
                left = list((Path(folder) / "out").rglob(f"*{path.name}"))  # a name like ours may be put aside
                yield "kept" if kept.exists() and len(left) == 1 else "wrong"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


def code() -> Iterator[str]:
    """Pickles that write a file when they are read, under every suffix and for every source of weights."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("pth", "pt", "ckpt", "bin", "pth.tar", "pkl"):
            for name in ("timm:test_resnet", "torchvision:resnet18", "ultralytics:yolov8n", "smp:unet/resnet18"):
                mark, path = Path(folder) / "mark", Path(folder) / f"weights.{suffix}"
                path.write_bytes(pickle.dumps({"state_dict": Bomb(str(mark))}))
                try:
                    cs.load(name, weights=path)
                    met = "wrong"
                except CamscopeError:
                    met = "an error"
                yield "wrong" if mark.exists() else met
                mark.unlink(missing_ok=True)


def odd() -> Iterator[str]:
    """Settings and scores that mean nothing."""
    net, x = body(), torch.randn(2, 3, 32, 32)

    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = body()

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x) * float("nan")

    tries: list[Callable[[], Any]] = [
        lambda: cs.cam(net, x, targets=0, sampels=3),
        lambda: cs.cam(net, x, targets=0, method="scorecam", chunk=0),
        lambda: cs.cam(net, x, targets=1.5),
        lambda: cs.cam(net, x, targets=2),
        lambda: cs.cam(net, x[0]),
        lambda: cs.cam(net, x[:0]),
        lambda: cs.cam(net, x, layer="layer9"),
        lambda: list(cs.explain_all(cs.load(net), [np.zeros((32, 32, 3), np.uint8)], batch_size=0)),
        lambda: cs.Preprocess(input_size=(0, 32)),
        lambda: cs.Preprocess(input_size=(32, 32), std=(0.0, 1.0, 1.0)),
    ]
    for attempt in tries:
        try:
            attempt()
            yield "wrong"
        except CamscopeError:
            yield "an error"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explained = cs.explain(Nothing(), np.full((32, 32, 3), 9, np.uint8))
    yield "a note" if any("not finite" in note for note in explained.notes) else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {attack.name: attack for attack in attacks()}
    parser.add_argument("--only", nargs="+", choices=list(known), default=list(known), help="these attacks")
    asked = parser.parse_args()
    path = HERE / "attacks.json"
    rows: dict[str, dict[str, int]] = json.loads(path.read_text()) if path.is_file() else {}
    for name in asked.only:
        met = list(known[name].run())
        rows[name] = {one: met.count(one) for one in sorted(set(met))}
        sys.stdout.write(f"{name}: {rows[name]}\n")
    path.write_text(json.dumps({name: rows[name] for name in known if name in rows}, indent=1) + "\n")
    lines = [
        f"| {name} | {sum(met.values()):,} | {met.get('wrong', 0)} | "
        f"{', '.join(f'{one}: {count:,}' for one, count in met.items() if one != 'wrong')} | {known[name].before} |"
        for name, met in json.loads(path.read_text()).items()
    ]
    (HERE / "attacks.md").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
