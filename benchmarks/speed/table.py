"""The figures of results.json as docs/speed.md."""

from __future__ import annotations

import math
from typing import Any

from gradcam import BACKENDS, mean_ratio

TARGETS = """\
# Speed and memory

`make bench` writes this page (rules: benchmarks/README.md). Ratios are medians over interleaved rounds in one
process, with quartiles. The plain forward pass is the network as built, contiguous, float32, in `inference_mode`.
Maps are computed at image size. Other work was running on the machine: the last section has its load before each
part.

| | target | measured | |
|---|---|---|---|
"""


def written(results: dict[str, Any]) -> str:
    """Targets first, then every network and method, then what it was measured on."""
    lines = [
        f"| {name} | {sign} {goal} | {value:.2f} | {_verdict(value, sign, goal)} |"
        for name, sign, goal, value in _targets(results)
    ]
    parts = [TARGETS + "\n".join(lines)]
    for key, title in (
        ("cnns", "## Grad-CAM of a batch of 8, CNNs"),
        ("vits", "## Grad-CAM of a batch of 8, transformers"),
    ):
        if key in results:
            parts.append(f"{title}\n\n{_networks(results[key]['figures'])}")
    if "cnns" in results:
        parts.append(f"## Preparation of an engine, seconds\n\n{_preparation(results['cnns']['figures'])}")
    if _of_methods(results):
        parts.append(f"## Time of pytorch-grad-cam / time of camscope, resnet50\n\n{_methods(results)}")
    if "memory" in results:
        rows = [
            f"| {case} | {mb['peak']} | {mb['peak'] - mb['before']} |"
            for case, mb in results["memory"]["figures"].items()
        ]
        parts.append(
            "## Peak memory, MB (resnet50; batch 32, Score-CAM one image)\n\n"
            "| | process | work only |\n|---|---|---|\n" + "\n".join(rows)
        )
    if "folder" in results:
        f = results["folder"]["figures"]
        parts.append(
            f"## A folder of {f['pictures']} photographs\n\nA bare loop took {f['bare loop']['seconds']:.1f} s, "
            f"and `camscope explain --write overlay` {f['camscope explain']['seconds']:.1f} s."
        )
    if "stream" in results:
        f = results["stream"]["figures"]
        parts.append(
            f"## Memory of a stream of {f['pictures']:,} small images, a tiny network\n\n"
            f"Peak of the process after 500 images: {f['after 500']} MB; at the end: {f['at the end']} MB."
        )
    known = {key: value for key, value in next(iter(results.values()))["machine"].items() if key != "load"}
    loads = ", ".join(f"{part} {one['machine']['load']:g}" for part, one in results.items())
    parts.append("## Measured on\n\n" + ", ".join(f"{key} {value}" for key, value in known.items()))
    parts.append(f"Load of the machine before each part, of 2 cores: {loads}.")
    return "\n\n".join(parts) + "\n"


def _targets(results: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    found: list[tuple[str, str, float, float]] = []
    if "cnns" in results:
        f = results["cnns"]["figures"]
        found += [
            ("Grad-CAM / forward, 5 CNNs, plain call", "<=", 0.86, mean_ratio(f, "eager")),
            ("Grad-CAM / forward, 5 CNNs, openvino", "<=", 0.68, mean_ratio(f, "openvino")),
            ("Grad-CAM / forward, 5 CNNs, bfloat16", "<=", 0.45, mean_ratio(f, "eager, bfloat16")),
            ("Grad-CAM / forward, 5 CNNs, openvino, bfloat16", "<=", 0.36, mean_ratio(f, "openvino, bfloat16")),
            ("pytorch-grad-cam / ours, plain call", ">=", 4, mean_ratio(f, "pytorch-grad-cam", "eager")),
            ("pytorch-grad-cam / ours, bfloat16", ">=", 8, mean_ratio(f, "pytorch-grad-cam", "eager, bfloat16")),
            ("torch-cam / ours, plain call", ">=", 1.2, mean_ratio(f, "torch-cam", "eager")),
            ("torch-cam / ours, bfloat16", ">=", 2.5, mean_ratio(f, "torch-cam", "eager, bfloat16")),
        ]
    if "vits" in results:
        found += [
            (f"Grad-CAM / forward, {spec.partition(':')[2]}, {name}", "<=", goal, figures[name]["ratio"])
            for spec, figures in results["vits"]["figures"].items()
            for name, goal in (("openvino", 1.0), ("openvino, bfloat16", 0.5))
        ]
    if "classes" in results:
        found.append(
            ("14 classes / 1 class, densenet121", "<=", 1.15, results["classes"]["figures"]["14 classes"]["ratio"])
        )
    f = _of_methods(results)
    found += [
        (f"{name}, pytorch-grad-cam / ours", ">=", goal, f[name]["pytorch-grad-cam"]["ratio"])
        for name, goal in _METHOD_GOALS.items()
        if name in f
    ]
    if "memory" in results:
        mb = {case: figures["peak"] for case, figures in results["memory"]["figures"].items()}
        work = {case: figures["peak"] - figures["before"] for case, figures in results["memory"]["figures"].items()}
        found += [
            (f"peak memory, {case} / forward, batch 32", "<=", 1.15, mb[case] / mb["forward"])
            for case in ("Grad-CAM, float32", "Grad-CAM, bfloat16")
            if case in mb
        ]
        found += [
            (
                "memory of the work only, Score-CAM, ours / pytorch-grad-cam",
                "<=",
                0.2,
                work["Score-CAM"] / work["Score-CAM, pytorch-grad-cam"],
            ),
        ]
    if "stream" in results:
        mb = results["stream"]["figures"]
        found.append(("MB more at the 20,000th image than at the 500th", "<=", 100, mb["at the end"] - mb["after 500"]))
    if "folder" in results:
        found.append(
            (
                "images per second, explain with overlays / bare loop",
                ">=",
                0.9,
                1 / results["folder"]["figures"]["camscope explain"]["ratio"],
            )
        )
    return found


_METHOD_GOALS = {
    "Ablation-CAM": 50,
    "Score-CAM": 1.3,
    "Eigen-CAM step": 20,
    "EigenGrad-CAM step": 20,
    "FullGrad": 4,
    "augmentation smoothing": 4,
    "ROAD": 4,
}


def _of_methods(results: dict[str, Any]) -> dict[str, Any]:
    """Every method that was timed beside its peer, by its name."""
    found = {name: f for part in ("ablationcam", "scorecam", "methods") for name, f in _figures(results, part).items()}
    return found | ({"ROAD": results["road"]["figures"]} if "road" in results else {})


def _figures(results: dict[str, Any], part: str) -> dict[str, Any]:
    return results.get(part, {}).get("figures", {})


def _verdict(value: float, sign: str, goal: float) -> str:
    return "reached" if (value <= goal if sign == "<=" else value >= goal) else "**missed**"


def _networks(figures: dict[str, Any]) -> str:
    names = [name for name in next(iter(figures.values())) if name != "layer"]
    head = (
        "| network | layer | "
        + " | ".join(f"{n}, s" if n == "forward" else n for n in names)
        + " |\n|"
        + "---|" * (2 + len(names))
    )
    rows = []
    for spec, found in figures.items():
        cells = [f"{found['forward']['seconds']:.2f}"]
        cells += [
            f"{found[n]['ratio']:.2f} ({found[n]['low']:.2f} to {found[n]['high']:.2f})"
            for n in names
            if n != "forward"
        ]
        rows.append(f"| {spec} | `{found['layer']}` | " + " | ".join(cells) + " |")
    return head + "\n" + "\n".join(rows)


def _preparation(figures: dict[str, Any]) -> str:
    names = [name for name in BACKENDS if name != "eager"]
    rows = [
        f"| network | {' | '.join(names)} | correlation of maps in bfloat16 | note |",
        "|---" * (len(names) + 3) + "|",
    ]
    for spec, found in figures.items():
        notes = "; ".join(dict.fromkeys(found[name]["note"] for name in names if found[name].get("note")))
        seconds = " | ".join(f"{found[name]['prepared']:.1f}" for name in names)
        rows.append(f"| {spec} | {seconds} | {found['eager, bfloat16'].get('correlation', math.nan):.4f} | {notes} |")
    return "\n".join(rows)


def _methods(results: dict[str, Any]) -> str:
    rows = ["| method | camscope, s | ratio |", "|---|---|---|"]
    for name, figures in _of_methods(results).items():
        theirs, seconds = figures["pytorch-grad-cam"], figures["camscope"]["seconds"]
        rows.append(f"| {name} | {seconds:.3f} | {theirs['ratio']:.1f} ({theirs['low']:.1f} to {theirs['high']:.1f}) |")
    return "\n".join(rows)
