"""Options shared by commands that load a model, and their conversion to arguments of `camscope.load`."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args, get_type_hints

import typer

from camscope.cli.options import Labels, Weights, class_names, numbers, pairs
from camscope.cli.terminal import command_with
from camscope.errors import SettingError


def _option(kind: Any, text: str, *names: str, **more: Any) -> Any:
    """Return the annotation of an option in the panel of the model; not given, it is None."""
    return Annotated[kind, typer.Option(*names, help=text, rich_help_panel="Model", **more)]


_OPTIONS: dict[str, Any] = {
    "arch": _option(str | None, "Network that a file of weights fills, such as timm:resnet18."),
    "classes": _option(int | None, "Number of outputs.", min=1, show_default="as many as labels"),
    "outcome": _option(
        str | None,
        "Meaning of the outputs: one (softmax, one class), any (sigmoid, several) or value (regression).",
        show_default="detected from the model",
    ),
    "input_size": _option(str | None, "Input size of the model: side in pixels, or HEIGHT,WIDTH."),
    "mean": _option(str | None, "Mean of the pixels in [0, 1]: one number, or one per channel."),
    "std": _option(str | None, "Standard deviation of the pixels in [0, 1]: one number, or one per channel."),
    "fit": _option(
        str | None,
        "How an image is fitted to the input size: crop, squash or pad; given, no margin of the source is cropped.",
    ),
    "option": _option(
        list[str] | None, "Option of the model source as name=value, such as pad_type=same; repeat for several."
    ),
    "output": _option(
        str | None, "Output with the scores, by name or number, of a network with several.", show_default="detected"
    ),
    "name": _option(str | None, "Name of the model in results.", show_default="the model as given"),
    "prefix": _option(str | None, "Prefix of the network's names in the weights file.", show_default="detected"),
    "ignore": _option(
        list[str] | None,
        "Pattern of names in the weights file to leave out, such as 'criterion.*'; repeat for several.",
    ),
    "trust": _option(
        bool, "Load files that can run code: weights of torchxrayvision, models of Ultralytics.", "--trust"
    ),
}
_LISTS = ("option", "ignore")
"""Options that are given several times for one model; of several models, 2:VALUE is for the second."""
_NUMBERED = re.compile(r"(\d+):(.*)", re.DOTALL)


def with_model_options(command: Callable[..., None], *, names: Sequence[str] = tuple(_OPTIONS)) -> Callable[..., None]:
    """Give a command the shared options; it receives them as one dictionary in its keyword ``loading``.

    Args:
        command: the command.
        names: the options that it takes.

    >>> @with_model_options
    ... def show(model: str, *, loading: dict[str, Any]) -> None:
    ...     print(model, loading)
    >>> show("timm:resnet18", mean="0.5", input_size="64")
    timm:resnet18 {'input_size': (64, 64), 'mean': [0.5]}
    """

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        options = {name: values.pop(name) for name in names if name in values}
        with command_with([*values, *names]):
            command(*arguments, **values, loading=_arguments(options))

    return _with_parameters(run, command, {name: _OPTIONS[name] for name in names})


def with_options_per_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command of several models the shared options, each for all models or once per model, in their order.

    Options that one model takes several times hold for all models, or with its number for one: ``2:pad_type=same``.

    The command has a parameter ``models`` with their names. It receives one dictionary per model in its keyword
    ``loading``, with ``weights`` and ``labels``.

    >>> @with_options_per_model
    ... def show(models: list[str], *, loading: list[dict[str, Any]]) -> None:
    ...     print(loading)
    >>> show(models=["a", "b"], mean=["0.5"], input_size=["64", "32"])
    [{'input_size': (64, 64), 'mean': [0.5]}, {'input_size': (32, 32), 'mean': [0.5]}]
    """
    options = {"weights": Weights, "labels": Labels, **_OPTIONS}
    repeated = {
        name: _numbered(hint) if name in _LISTS else hint if name == "trust" else _repeated(hint)
        for name, hint in options.items()
    }

    @functools.wraps(command)
    def run(*, models: list[str] | None, **values: Any) -> None:
        given = {name: value for name in repeated if (value := values.pop(name, None))}
        names = [name.strip() for one in models or [] for name in one.split(",")]
        if given and not names:
            raise SettingError(f"--{next(iter(given)).replace('_', '-')} is an option of a model: name the model too")
        with command_with([*values, *repeated]):
            command(models=names, **values, loading=_per_model(given, len(names)))

    return _with_parameters(run, command, repeated)


def _per_model(options: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the arguments of `camscope.load` for each of some models."""
    for name, value in options.items():
        if name in _LISTS:
            for number in (int(found[1]) for one in value if (found := _NUMBERED.fullmatch(one))):
                if not 1 <= number <= count:
                    raise SettingError(f"--{name} {number}:... names model {number}, but got {count} models")
        elif name != "trust" and len(value) not in (1, count):
            raise SettingError(
                f"--{name.replace('_', '-')} is given {len(value)} times for {count} models: give it once for all, or "
                "once per model"
            )
    result = []
    for n in range(count):
        own: dict[str, Any] = {
            name: _of_model(value, n + 1) if name in _LISTS else value if name == "trust" else value[n % len(value)]
            for name, value in options.items()
        }
        if "labels" in own:
            own["labels"] = class_names(own["labels"])
        result.append(_arguments(own))
    return result


def _of_model(values: list[str], number: int) -> list[str]:
    """Return the values for all models and for the model with a number, from 1.

    >>> _of_model(["in_chans=4", "2:pad_type=same"], 1), _of_model(["in_chans=4", "2:pad_type=same"], 2)
    (['in_chans=4'], ['in_chans=4', 'pad_type=same'])
    """
    split = [(found, value) for value in values for found in [_NUMBERED.fullmatch(value)]]
    return [found[2] if found else value for found, value in split if not found or int(found[1]) == number]


def _numbered(hint: Any) -> Any:
    """Return the annotation of an option of a list, whose help says how it is given for one model."""
    kind, option = get_args(hint)
    option = copy.copy(option)
    option.help = f"{option.help} 2:VALUE is for the second model alone."
    return Annotated[kind, option]


def _repeated(hint: Any) -> Any:
    """Return the annotation of an option that may be given several times."""
    kind, option = get_args(hint)
    (single,) = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    return Annotated[list[single] | None, option]  # type: ignore[valid-type]


def _with_parameters(
    run: Callable[..., None], command: Callable[..., None], options: dict[str, Any]
) -> Callable[..., None]:
    """Return a command whose signature has the options in place of ``loading``."""
    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters.values()
    command_parameters = [p.replace(annotation=hints[p.name]) for p in parameters if p.name != "loading"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, keyword, default=False if name == "trust" else None, annotation=annotation)
        for name, annotation in options.items()
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
    if str(arguments.get("output", "")).isdigit():
        arguments["output"] = int(arguments["output"])
    if "option" in arguments:
        arguments["options"] = pairs(arguments.pop("option"), "--option")
    return arguments
