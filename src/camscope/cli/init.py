"""camscope init: write a study file for a downloaded folder or table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.options import MODELS, Labels, Seed, Weights, class_names
from camscope.cli.terminal import one_line
from camscope.errors import SettingError

if TYPE_CHECKING:
    from camscope.study.init_study import InitResult

_SHOWN = 30  # labels


def init(
    path: Annotated[Path, typer.Argument(metavar="FOLDER_OR_TABLE", help="Folder of a data set, or a table.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The study file to write.")] = Path("study.toml"),
    model: Annotated[str | None, typer.Option("--model", "-m", help=f"Model of all labels: {MODELS}.")] = None,
    weights: Weights = "default",
    labels: Labels = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a study file that exists.")] = False,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recognise the content of a folder or a table, and write a study file for it.

    Known layouts, such as CheXpert, MIMIC-CXR-JPG or COCO annotations, are recognised by the columns of their tables.
    In other tables, columns are recognised by their names and cells. On a terminal, you choose between several
    candidates.

    Example: camscope init CheXpert-v1.0-small --model chexpert_model
    """
    from camscope.cohort.draft import draft
    from camscope.files import write_atomically, writing
    from camscope.study.init_study import init_study

    if out.exists() and not force:
        raise SettingError(f"{out} exists already: name another file with --out, or replace it with --force")
    proposal = draft(path, results=out.absolute().parent, ask=_ask if sys.stdin.isatty() and not as_json else _nobody)
    settings: dict[str, Any] = {} if model is None else {"spec": _placed(model, out)}
    settings |= {} if weights == "default" else {"weights": _placed(weights, out)}
    names = class_names(labels)
    settings |= (
        {}
        if names is None
        else {"labels": [str(name) for name in names] if isinstance(names, list) else _placed(str(names), out)}
    )
    loaded = None if model is None else load_noted(model, seed=seed, weights=weights, labels=names)
    result = init_study(proposal, out, model=loaded, settings=settings)
    with writing(out):
        write_atomically(out, lambda file: file.write(result.text.encode()))
    if as_json:
        print(json.dumps({"study": str(out), **{k: v for k, v in asdict(result).items() if k != "text"}}))
    else:
        _show(result, out, with_model=model is not None)


def _placed(name: str, out: Path) -> str:
    """Return a path relative to the study file; a name that is not a path is returned unchanged."""
    return Path(os.path.relpath(name, out.absolute().parent)).as_posix() if Path(name).exists() else name


def _nobody(question: str, choices: Sequence[str]) -> str | None:
    return None


def _ask(question: str, choices: Sequence[str]) -> str | None:
    """Ask the user to choose; return None for a blank answer or at the end of the input."""
    text = f"{question} ({', '.join(map(one_line, choices))}; blank: not sure)"
    while choices:
        try:
            answer: str = typer.prompt(text, default="", show_default=False).strip()
        except (EOFError, typer.Abort):  # the end of the input
            print()
            return None
        if not answer or answer in choices:
            return answer or None
        print(f"{answer!r} is none of these")
    return None


def _show(result: InitResult, out: Path, *, with_model: bool) -> None:
    """Print what was recognised, and what to run next."""
    rows = [
        ("layout", result.layout or "a table of its own"),
        ("images", _images(result)),
        ("patients", _patients(result)),
    ]
    rows += (
        [("views", ", ".join(f"{name} {count:,}" for name, count in list(result.views.items())[:8]))]
        if result.views
        else []
    )
    for name, (present, absent, unknown) in list(result.labels.items())[:_SHOWN]:
        counts = f"{present:,} present, {absent:,} absent" + (f", {unknown:,} unknown" if unknown else "")
        mask = f"; {result.masks[name]:,} masks" if name in result.masks else ""
        rows.append((f"label {name}", counts + mask))
    if len(result.labels) > _SHOWN:
        rows.append(("", f"and {len(result.labels) - _SHOWN} more labels"))
    rows += [(f"mask {name}", f"{count:,} images") for name, count in result.masks.items() if name not in result.labels]
    rows += [("note", note) for note in result.notes]
    width = max(len(one_line(name)) for name, _ in rows)
    for name, text in rows:
        print(f"{one_line(name):<{width}}  {one_line(text)}")
    print(out)
    if with_model:
        print(f"next: camscope study --check {out}, then camscope study {out} --out results")
    else:
        train = f"camscope train {out} --model timm:densenet121 --out model"
        print(f"next: add model = ... to each label of {out}, or {train}")


def _images(result: InitResult) -> str:
    missing = f", {result.missing:,} of them missing" if result.missing else ", all found"
    return f"{result.images:,}{missing}"


def _patients(result: InitResult) -> str:
    words = {"column": f"{result.patients:,}", "header": "in the headers of the images", "none": "unknown"}
    return words[result.patient_source]
