"""Absolute times on one GPU: forward pass, camscope and the peers per network, precision and batch; and a study.

    python benchmarks/speed/gpu.py [--minutes 8] [--device cuda] [--out benchmarks/speed]

writes gpu.json and gpu.md in the folder. Cases run in order of interest until the time is up; those left are listed.
Without a GPU, `--device cpu` shows that the script works; its times say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradcam
import torch
from rounds import machine, rounds

import camscope as cs

NETWORKS = {
    "torchvision:resnet50": "layer4",
    "torchvision:densenet121": "features",
    "timm:convnext_base": "stages",
    "timm:vit_small_patch16_224": "",
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCHES = (64, 8, 1, 256)
ROUNDS = 5
IMAGES = 512
"""Images of the study, of 512 x 512 pixels."""


class Case(NamedTuple):
    """One row of the table."""

    network: str
    precision: str
    batch: int


def main() -> None:
    """Run the cases until the time is up, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    asked = [Case(n, p, b) for b in given.batches for n in given.networks for p in PRECISIONS]
    results: dict[str, Any] = {"machine": machine(), "device": given.device, "cases": [], "left": []}
    results["study"] = study(given.networks[0], images=given.images, device=given.device)
    for case in asked:
        if time.monotonic() > end:
            results["left"].append(case._asdict())
            continue
        results["cases"].append(case._asdict() | {"seconds": measured(case, device=given.device)})
        print(json.dumps(results["cases"][-1]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (given.out / "gpu.md").write_text(table(results), encoding="utf-8")


def measured(case: Case, *, device: str) -> dict[str, float | str]:
    """Return contender -> median seconds of a batch; or why it cannot run.

    "forward" has weights and inputs in the precision; ours keeps both in float32 and lowers what lies before the layer.
    """
    model = cs.load(case.network, weights="none")
    net = model.net.to(device)
    x = torch.randn(case.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    classes = [index % 1000 for index in range(case.batch)]
    dtype = PRECISIONS[case.precision]
    lowered, low = copy.deepcopy(net).to(dtype), x.to(dtype)
    contenders = {
        "forward": lambda: gradcam.forward(lowered, low),
        "camscope": lambda: gradcam.ours(net, x, classes, precision=case.precision),
    }
    if NETWORKS.get(case.network):
        contenders |= gradcam.peers(lowered, low, classes, layer=NETWORKS[case.network])
    failed, running = {}, {}
    for name, contender in contenders.items():
        try:
            synchronised(contender, device)()
            running[name] = synchronised(contender, device)
        except (RuntimeError, TypeError, ValueError) as error:  # no memory, or no bfloat16 in NumPy
            failed[name] = str(error).splitlines()[0][:120]
    timed = rounds(running, base=next(iter(running)), number=ROUNDS) if running else {}
    return {name: figures["seconds"] for name, figures in timed.items()} | failed


def synchronised(contender: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Return a contender that ends when the device has done its work."""

    def run() -> Any:
        result = contender()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return result

    return run


def study(network: str, *, images: int, device: str) -> dict[str, float]:
    """Return images per second of a study with overlays and without, of generated radiographs in PNG files."""
    speeds = {"images": float(images), "processors": float(len(os.sched_getaffinity(0)))}
    with tempfile.TemporaryDirectory() as folder:
        for name, explain in (("without overlays", '[explain]\nfiles = ""\n'), ("with overlays", "")):
            place = Path(folder) / name.partition(" ")[0]
            read = cs.Study.read(cohort(place, network, images=images, explain=explain))
            list(cs.run(read, place / "warm", device=device))
            start = time.perf_counter()
            rows = sum(1 for _ in cs.run(read, place / "results", device=device))
            speeds[name] = images / (time.perf_counter() - start)
            if rows < images:
                raise RuntimeError(f"{images} images, but {rows} rows")
    return speeds


def cohort(place: Path, network: str, *, images: int, explain: str) -> Path:
    """Write a study of that many radiographs."""
    from PIL import Image

    from camscope.phantoms.cohort import grey_bytes
    from camscope.phantoms.radiograph import phantom

    place.mkdir(parents=True)
    shown = [grey_bytes(phantom(seed, view="PA", size=(512, 512))) for seed in range(min(images, 16))]
    lines = ["path,patient,finding"]
    for number in range(images):
        Image.fromarray(shown[number % len(shown)]).save(place / f"{number}.png")
        lines.append(f"{number}.png,P{number // 3},{number % 2}")
    (place / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = (
        f'[cohort]\ntable = "table.csv"\n\n[labels.finding]\nmodel = {{spec = "{network}", weights = "none"}}\n'
        f'class = 0\ncolumn = "finding"\n\n{explain}'
    )
    (place / "study.toml").write_text(text, encoding="utf-8")
    return place / "study.toml"


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    names = list(dict.fromkeys(name for case in results["cases"] for name in case["seconds"]))
    yield f"# On {results['machine']['processor']} ({results['device']}), {results['machine']['date']}\n"
    yield f"| network | precision | batch | {' | '.join(f'{name}, ms' for name in names)} | camscope / forward |"
    yield "|" + "---|" * (len(names) + 4)
    for case in results["cases"]:
        seconds = case["seconds"]
        cells = [f"{1000 * v:.1f}" if isinstance(v := seconds.get(name, "-"), float) else v for name in names]
        both = all(isinstance(seconds.get(name), float) for name in ("camscope", "forward"))
        ratio = f"{seconds['camscope'] / seconds['forward']:.2f}" if both else "-"
        yield f"| {case['network']} | {case['precision']} | {case['batch']} | {' | '.join(cells)} | {ratio} |"
    speeds = results["study"]
    yield (
        f"\nA study of {speeds['images']:.0f} images of 512 x 512, {speeds['processors']:.0f} processors: "
        f"{speeds['with overlays']:.1f} images per second with overlays, {speeds['without overlays']:.1f} without."
    )
    if results["left"]:
        left = (f"{case['network']} {case['precision']} {case['batch']}" for case in results["left"])
        yield f"\nNo time was left for: {', '.join(left)}."


if __name__ == "__main__":
    main()
