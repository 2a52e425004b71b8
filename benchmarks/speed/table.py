"""The figures of results.json as docs/speed.md."""

from __future__ import annotations

from typing import Any

from gradcam import mean_ratio

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
        parts.append(_least(results["cnns"]["figures"]))
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
            ("Grad-CAM / forward, 5 CNNs, engine packed", "<=", 0.78, mean_ratio(f, "packed")),
            ("Grad-CAM / forward, 5 CNNs, engine eager", "<=", 0.78, mean_ratio(f, "eager")),
            ("Grad-CAM / forward, 5 CNNs, engine openvino", "<=", 0.58, mean_ratio(f, "openvino")),
            ("pytorch-grad-cam / ours, packed", ">=", 4.5, mean_ratio(f, "pytorch-grad-cam", "packed")),
            ("pytorch-grad-cam / ours, openvino", ">=", 6, mean_ratio(f, "pytorch-grad-cam", "openvino")),
            ("torch-cam / ours, packed", ">=", 1.3, mean_ratio(f, "torch-cam", "packed")),
            ("torch-cam / ours, openvino", ">=", 1.7, mean_ratio(f, "torch-cam", "openvino")),
        ]
    if "vits" in results:
        found += [
            (f"Grad-CAM / forward, {spec.partition(':')[2]}, packed", "<=", 1.2, figures["packed"]["ratio"])
            for spec, figures in results["vits"]["figures"].items()
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
            ("peak memory, Grad-CAM / forward, batch 32, eager", "<=", 1.15, mb["Grad-CAM, eager"] / mb["forward"]),
            ("peak memory, Grad-CAM / forward, batch 32, packed", "<=", 1.15, mb["Grad-CAM, packed"] / mb["forward"]),
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


def _least(figures: dict[str, Any]) -> str:
    name = "openvino, to the layer"
    taken = {spec: found for spec, found in figures.items() if name in found}
    faster = [spec for spec, found in figures.items() if found["openvino"]["ratio"] < found["packed"]["ratio"]]
    return (
        f"OpenVINO's pass to the layer alone, without a map, takes {mean_ratio(taken, name):.2f} of the plain forward "
        f"on this processor (geometric mean), which is the lower limit for maps with OpenVINO. It is faster than "
        f'packed, which "auto" uses for 24 images or more, for {", ".join(faster) or "none of them"}.'
    )


def _preparation(figures: dict[str, Any]) -> str:
    rows = ["| network | packed | openvino | note |", "|---|---|---|---|"]
    for spec, found in figures.items():
        notes = "; ".join(found[e]["note"] for e in ("packed", "openvino") if found[e].get("note"))
        rows.append(f"| {spec} | {found['packed']['prepared']:.1f} | {found['openvino']['prepared']:.1f} | {notes} |")
    return "\n".join(rows)


def _methods(results: dict[str, Any]) -> str:
    rows = ["| method | camscope, s | ratio |", "|---|---|---|"]
    for name, figures in _of_methods(results).items():
        theirs, seconds = figures["pytorch-grad-cam"], figures["camscope"]["seconds"]
        rows.append(f"| {name} | {seconds:.3f} | {theirs['ratio']:.1f} ({theirs['low']:.1f} to {theirs['high']:.1f}) |")
    return "\n".join(rows)
