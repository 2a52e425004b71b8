"""Options shared by commands that load a model, and their conversion to arguments of `camscope.load`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from camscope.cli.options import numbers, pairs

_PANEL = "Model"
_OPTIONS: dict[str, Any] = {
    "classes": Annotated[
        int | None,
        typer.Option(min=1, help="Number of outputs.", show_default="as many as labels", rich_help_panel=_PANEL),
    ],
    "outcome": Annotated[
        str | None,
        typer.Option(
            help="Meaning of the outputs: one (softmax, one class), any (sigmoid, several) or value (regression).",
            show_default="detected from the model",
            rich_help_panel=_PANEL,
        ),
    ],
    "input_size": Annotated[
        str | None,
        typer.Option(help="Input size of the model: side in pixels, or HEIGHT,WIDTH.", rich_help_panel=_PANEL),
    ],
    "mean": Annotated[
        str | None,
        typer.Option(help="Mean of the pixels in [0, 1]: one number, or one per channel.", rich_help_panel=_PANEL),
    ],
    "std": Annotated[
        str | None,
        typer.Option(
            help="Standard deviation of the pixels in [0, 1]: one number, or one per channel.", rich_help_panel=_PANEL
        ),
    ],
    "fit": Annotated[
        str | None,
        typer.Option(help="How an image is fitted to the input size: crop, squash or pad.", rich_help_panel=_PANEL),
    ],
    "option": Annotated[
        list[str] | None,
        typer.Option(
            help="Option of the model source as name=value, such as pad_type=same; repeat for several.",
            rich_help_panel=_PANEL,
        ),
    ],
    "prefix": Annotated[
        str | None,
        typer.Option(
            help="Prefix of the network's names in the weights file.",
            show_default="detected",
            rich_help_panel=_PANEL,
        ),
    ],
    "ignore": Annotated[
        list[str] | None,
        typer.Option(
            help="Pattern of names in the weights file to leave out, such as 'criterion.*'; repeat for several.",
            rich_help_panel=_PANEL,
        ),
    ],
    "trust": Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load files that can run code: weights of torchxrayvision, models of Ultralytics.",
            rich_help_panel=_PANEL,
        ),
    ],
}


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options; it receives them as one dictionary in its keyword ``loading``.

    >>> @with_model_options
    ... def show(model: str, *, loading: dict[str, Any]) -> None:
    ...     print(model, loading)
    >>> show("timm:resnet18", mean="0.5", input_size="64")
    timm:resnet18 {'input_size': (64, 64), 'mean': [0.5]}
    """

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        options = {name: values.pop(name) for name in _OPTIONS if name in values}
        command(*arguments, **values, loading=_arguments(options))

    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters.values()
    command_parameters = [p.replace(annotation=hints[p.name]) for p in parameters if p.name != "loading"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, keyword, default=False if name == "trust" else None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    run.__signature__ = inspect.Signature([*command_parameters, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*command_parameters, *shared)}
    return run


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `camscope.load` for the options of the command."""
    arguments = {name: value for name, value in options.items() if value}
    for name in ("mean", "std"):
        if name in arguments:
            arguments[name] = numbers(arguments[name], f"--{name}")
    size = numbers(arguments.get("input_size"), "--input-size")
    if size is not None:
        arguments["input_size"] = (int(size[0]), int(size[-1]))
    if "option" in arguments:
        arguments["options"] = pairs(arguments.pop("option"), "--option")
    return arguments
