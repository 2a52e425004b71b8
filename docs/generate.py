"""Write docs/methods.md, docs/metrics.md and what `camscope methods` prints: python docs/generate.py."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from camscope.explanation.method_lookup import find_method, settings_of
from camscope.methods import META, METHODS, facts_of
from camscope.metrics import FACTS, METRICS, kind

HERE = Path(__file__).parent
WRITTEN = "<!-- Written by docs/generate.py; edit the docstrings and facts in src/camscope, not this page. -->"
COSTS = json.loads((HERE.parent / "benchmarks/speed/costs.json").read_text("utf-8"))["costs"]
LISTED = HERE.parent / "src/camscope/cli/methods.json"
BEST = {"high": "higher", "low": "lower", "none": "neither"}


def main() -> None:
    """Write the pages, and the list of the command."""
    (HERE / "methods.md").write_text(methods_page(), encoding="utf-8")
    (HERE / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    LISTED.write_text(methods_listed(), encoding="utf-8")


def methods_page() -> str:
    """Return the page of the methods."""
    listed = dict(sorted(METHODS.items(), key=lambda one: (_where(one[1]), one[0])))
    rows = [
        "| method | what it does | needs | explains | passes per map | time |",
        "|---|---|---|---|---|---|",
    ]
    for name, function in listed.items():
        facts = facts_of(function)
        said = f"{_where(function)}, the same for every class" if facts.class_agnostic else _where(function)
        rows.append(
            f"| [{name}](#{name}) | {summary(function)} | {facts.needs} | {said} | {facts.passes} | {cost(name)} |"
        )
    made = [
        f"* `{name}(METHOD)`: {summary(function)}. Time with Grad-CAM: {cost(f'{name}(gradcam)')} a forward pass."
        for name, function in META.items()
    ]
    return "\n".join(
        [
            "# Methods",
            "",
            WRITTEN,
            "",
            "`camscope methods NAME` prints the same. In the formulas, A are the activations of the layer and g the",
            "gradients of the score by them; k counts channels, i and j cells. Maps are signed, before the final ReLU.",
            "A method that does not apply to a model raises an error.",
            "",
            "The time of a map is given in forward passes, measured for one image on a ResNet-18 (attention rollout",
            "and LeGrad: a ViT-Ti; frozen-norm CAM: a ConvNeXt) on two CPU cores by `benchmarks/speed/costs.py`. K is",
            'the number of channels, 512 there; wider networks take longer where passes depend on K. "?": unknown.',
            "",
            *rows,
            "",
            "Methods made from methods:",
            "",
            *made,
            "",
            *(line for name, function in listed.items() for line in section(name, function, settings(function))),
        ]
    )


def methods_listed() -> str:
    """Return the list that `camscope methods` reads, to start without importing the methods."""
    described = {name: (function, name) for name, function in METHODS.items()}
    described |= {f"{name}(METHOD)": (function, f"{name}(gradcam)") for name, function in META.items()}
    listed = {name: described_for_command(function, example) for name, (function, example) in described.items()}
    return json.dumps(listed, indent=1, ensure_ascii=False) + "\n"


def described_for_command(function: Callable[..., Any], example: str) -> dict[str, Any]:
    """Return what the command says of a method: the text without what concerns callers of the function alone."""
    parts = re.split(r"\n\n(?=(?:\w+): |(?:\w+):\n)", (inspect.getdoc(function) or "").partition("\n>>>")[0].rstrip())
    sections = {part.partition(":")[0]: part for part in parts[1:]}
    meanings = {
        name: " ".join(text.split())
        for name, text in re.findall(r"^    (\w+): (.+(?:\n     +.+)*)", sections.get("Args", ""), re.MULTILINE)
    }
    taken = settings_of(find_method(example)).items()
    return {
        "text": parts[0].replace("``", ""),
        "settings": {name: [_shown(default), meanings.get(name, "")] for name, default in taken},
        "facts": "\n\n".join(sections[name].replace("``", "") for name in ("Needs", "Cost", "Reference")),
        "cost": cost(example),
    }


def cost(method: str) -> str:
    """Return the measured time of a map in forward passes, such as "1.2 x"; "?" if it was not measured."""
    if method not in COSTS:
        return "?"
    ratio = COSTS[method]["ratio"]
    return f"{ratio:.1f} x" if ratio < 10 else f"{ratio:.0f} x"


def _shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "(the stages of the network)"
    return "(automatic)" if default is None else str(list(default) if isinstance(default, tuple) else default)


def _where(function: Callable[..., Any]) -> str:
    facts = facts_of(function)
    return "the input" if facts.at_input else "the whole network" if facts.whole_network else "a layer"


def metrics_page() -> str:
    """Return the page of the metrics."""
    rows = ["| metric | what it does | kind | better | range |", "|---|---|---|---|---|"]
    for name, function in METRICS.items():
        facts = FACTS[name]
        limits = f"{facts.low:g} to {facts.high:g}"
        rows.append(f"| [{name}](#{name}) | {summary(function)} | {kind(function)} | {BEST[facts.best]} | {limits} |")
    return "\n".join(
        [
            "# Metrics",
            "",
            WRITTEN,
            "",
            "`camscope evaluate` computes them per image and method. Ignore any metric that a trivial baseline wins.",
            "",
            *rows,
            "",
            *(line for name, function in METRICS.items() for line in section(name, function, [])),
        ]
    )


def summary(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring, without its full stop."""
    return (inspect.getdoc(function) or "").splitlines()[0].rstrip(".").replace("|", "\\|").replace("`", "")


def section(name: str, function: Callable[..., Any], more: list[str]) -> list[str]:
    """Return the section on a method or metric: its docstring as text, without the examples."""
    text = (inspect.getdoc(function) or "").partition("\n>>>")[0].rstrip()
    return [f"## {name}", "", "```text", text, *more, "```", ""]


def settings(function: Callable[..., Any]) -> list[str]:
    """Return the lines on the settings of a method."""
    taken = settings_of(function)
    shown = (f"{s}={'' if d is inspect.Parameter.empty else repr(d)}" for s, d in taken.items())
    return ["", f"Settings: {', '.join(shown) if taken else 'none'}."]


if __name__ == "__main__":
    main()
