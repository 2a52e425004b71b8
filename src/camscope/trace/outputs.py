"""Find the scores in the output of a network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from camscope.errors import TargetError
from camscope.trace.pytree import tensors

_SCORES = ("logits", "out", "logits_per_image")
"""Keys and attributes of the scores in outputs of networks."""

_output: ContextVar[int | str | None] = ContextVar("output", default=None)
_columns: ContextVar[int] = ContextVar("columns", default=0)


def chosen_output() -> int | str | None:
    """Return the output that `choosing_output` has chosen, or None."""
    return _output.get()


def expected_columns() -> int:
    """Return the number of columns that `choosing_output` expects of the scores; 0 for any."""
    return _columns.get()


@contextlib.contextmanager
def choosing_output(output: int | str | None, *, columns: int | None = None) -> Iterator[None]:
    """Use one of several outputs of a network as its scores, in every pass that is recorded inside.

    Args:
        output: the index, key or attribute of the output; None leaves the choice as it is.
        columns: where no output is chosen, prefer one with this number of columns; 0 for any, None leaves it as it is.
    """
    chosen = _output.set(_output.get() if output is None else output)
    expected = _columns.set(_columns.get() if columns is None else columns)
    try:
        yield
    finally:
        _output.reset(chosen)
        _columns.reset(expected)


def unwrap(outputs: Any, output: int | str | None = None) -> Tensor:
    """Return the scores in what a network returned.

    Args:
        outputs: a tensor, tuple, dict, dataclass or Hugging Face output.
        output: the index, key or attribute of the output to use, of nested ones with dots ("heads.sex"); None for
            ``logits``, ``out`` or ``logits_per_image``, or else the first floating-point tensor that is no single
            number, such as a loss, if there are others; one with the number of columns that `choosing_output` expects
            comes first.

    Returns:
        The scores, (B, ...).

    Raises:
        TargetError: there is no such output, or no floating-point tensor in it.

    >>> import torch
    >>> unwrap({"aux": torch.zeros(1), "logits": torch.ones(1)}), unwrap((torch.zeros(1), torch.ones(1)), 1)
    (tensor([1.]), tensor([1.]))
    """
    if output is not None:
        outputs = _picked(outputs, output)
    else:
        for name in _SCORES:
            if isinstance(outputs, Mapping) and isinstance(outputs.get(name), Tensor):
                return outputs[name]  # type: ignore[no-any-return]
            if isinstance(getattr(outputs, name, None), Tensor):
                return getattr(outputs, name)  # type: ignore[no-any-return]
    floats = [tensor for tensor in tensors(outputs) if tensor.is_floating_point()]
    columns = expected_columns()
    if output is None and columns:
        floats.sort(key=lambda tensor: (tensor.ndim < 2 or tensor.shape[1] != columns, tensor.ndim > 2))
    scores = next((tensor for tensor in floats if tensor.ndim > 0), next(iter(floats), None))
    if scores is None:
        raise TargetError(
            f"the network returned {type(outputs).__name__} without a floating-point tensor; wrap it so that it "
            "returns its scores"
        )
    return scores


def rows_of_list(outputs: Any, batch: int) -> Any:
    """Return a list of one vector or map per image as one tensor; return other outputs unchanged.

    Raises:
        TargetError: as many vectors as images, and as long: they could be several outputs with one score per image.

    >>> import torch
    >>> rows_of_list([torch.zeros(3), torch.ones(3)], 2).shape, rows_of_list([torch.zeros(2, 3)], 2)[0].shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if type(outputs) not in (list, tuple) or len(outputs) != batch or batch == 1:
        return outputs
    if any(_floats(output) is None or output.ndim == 0 or output.shape != outputs[0].shape for output in outputs):
        return outputs
    if len(outputs[0]) == batch and (isinstance(outputs, tuple) or outputs[0].ndim > 1):
        return outputs  # several outputs, each with one entry per image
    if len(outputs[0]) == batch:
        raise TargetError(
            f"the network returned a list of {batch} vectors of {batch} scores for {batch} images: one per image or "
            "one per output; return torch.stack of them, choose with output=, or pass another number of images"
        )
    return torch.stack(outputs)


def other_outputs(outputs: Any, scores: Tensor) -> str:
    """Describe which of several outputs was used as the scores; "" where there was no choice.

    Args:
        outputs: what the network returned.
        scores: the tensor that `unwrap` chose.
    """
    if isinstance(outputs, Tensor) or any(scores is _entry(outputs, name) for name in _SCORES):
        return ""
    tensors_by_name = {name: tensor for name, value in _leaves(outputs) if (tensor := _floats(value)) is not None}
    scores_name = next((name for name, tensor in tensors_by_name.items() if tensor is scores), None)
    if len(tensors_by_name) < 2 or scores_name is None:
        return ""
    listing = ", ".join(f"{name!r} {tuple(tensor.shape)}" for name, tensor in tensors_by_name.items())
    return f"the network returns several outputs ({listing}): output {scores_name!r} is explained; choose with output="


def _entry(outputs: Any, name: Any) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    if isinstance(name, int):
        return outputs[name]
    return getattr(outputs, name, None)


def _leaves(outputs: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the outputs in a container with their names, those in a container inside of it with a dot."""
    for name in _names(outputs):
        value = _entry(outputs, name)
        inner = _names(value)
        yield from ((f"{name}.{key}", _entry(value, key)) for key in inner) if inner else ((name, value),)


def _names(outputs: Any) -> list[Any]:
    """Return the keys, fields or indices of a container of outputs."""
    if isinstance(outputs, Mapping):
        return list(outputs)
    if isinstance(outputs, (tuple, list)):
        return list(range(len(outputs)))
    return [field.name for field in dataclasses.fields(outputs)] if dataclasses.is_dataclass(outputs) else []


def _floats(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def _picked(outputs: Any, output: int | str) -> Any:
    """Return one output by index, key or attribute."""
    names = _names(outputs)
    if isinstance(output, int) and not (isinstance(outputs, Mapping) and output in outputs):
        if -len(names) <= output < len(names):
            return _entry(outputs, names[output])
    elif output in names or (isinstance(output, str) and hasattr(outputs, output) and not isinstance(outputs, Tensor)):
        return _entry(outputs, output)
    elif isinstance(output, str) and "." in output and (part := output.partition("."))[0] in map(str, names):
        outer = next(name for name in names if str(name) == part[0])
        return _picked(_entry(outputs, outer), int(part[2]) if part[2].isdecimal() else part[2])
    possible = ", ".join(repr(name) for name, _ in _leaves(outputs)) or "none: it returns one tensor"
    raise TargetError(f"the network has no output {output!r}; possible: {possible}")


def per_image(outputs: Tensor, batch: int) -> Tensor:
    """Return outputs with one entry per image, also where a squeeze dropped the batch axis of a single image.

    Raises:
        TargetError: the outputs cannot be assigned to images.

    >>> import torch
    >>> per_image(torch.zeros(3), 1).shape, per_image(torch.zeros(3), 3).shape
    (torch.Size([1, 3]), torch.Size([3]))
    """
    if outputs.ndim > 0 and len(outputs) == batch:
        return outputs
    if batch == 1:
        return outputs.unsqueeze(0)
    raise TargetError(
        f"Expected the network to return one row of scores per image (batch of {batch}), but got "
        f"{tuple(outputs.shape)}; wrap it so that it does, or pass the images one at a time"
    )
