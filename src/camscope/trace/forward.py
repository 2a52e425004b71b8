"""Forward: one pass recorded at several layers. Trace: that pass at one layer, for one score per image."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camscope.arguments import checked
from camscope.errors import CamscopeError, LayerError, TargetError
from camscope.trace.hooks import Edit, refuse_program, tracing
from camscope.trace.layout import Layout, Locate, find_layout, is_last
from camscope.trace.locks import lock_of
from camscope.trace.outputs import choosing_output, chosen_output, other_outputs, per_image, rows_of_list, unwrap
from camscope.trace.pytree import Input, call, find_picture, map_tensors, picture_of, take_images, with_picture
from camscope.trace.replay import Tail
from camscope.trace.replica import replicate
from camscope.trace.wrappers import bare

Trunk = Callable[[Any], AbstractContextManager[Mapping[str, Edit]]]
"""Alternative backend for everything before a layer: a context manager that is called with the inputs and yields
replacement outputs by layer name. If it has an attribute ``net``, that copy of the network runs instead."""


@dataclass(frozen=True)
class Forward:
    """One forward pass of a network, recorded at one or several layers.

    Attributes:
        net: the network.
        inputs: (B, C, *space), or a tuple, list or dict where the network takes several.
        outputs: (B, ...) scores of the network, unwrapped, before a final softmax or sigmoid.
        bypassed: the function that was undone at the end ("softmax", "sigmoid"), "log p" where only probabilities
            could be had, or "".
        records: layer name -> the output of the layer.
        calls: layer name -> how often it ran.
        picture: number of the images among the tensors of the inputs.
        differentiable: whether the graph reaches the parameters.
        trunk: what computed the part before the layer; None: the network itself.
        autocast: the dtype of the `torch.autocast` that it ran under; None: none.
        output: which of several outputs was chosen by the caller; None: none was.
        note: what the user must know about the choice among several outputs, or "".
    """

    net: nn.Module
    inputs: Any
    outputs: Tensor
    bypassed: str
    records: Mapping[str, Tensor]
    calls: Mapping[str, int]
    picture: int = 0
    differentiable: bool = False
    trunk: Trunk | None = None
    autocast: torch.dtype | None = None
    output: int | str | None = None
    note: str = ""

    @property
    def batch(self) -> int:
        """Return the number of images."""
        return len(self.pictures)

    @property
    def pictures(self) -> Tensor:
        """Return the images among the inputs, (B, C, *space)."""
        return picture_of(self.inputs, self.picture)

    def layout_of(self, layer: str, *, locate: Locate | None = None) -> Layout:
        """Find where the axes of a recorded layer lie, by ``locate`` or else by the shapes.

        Raises:
            LayerError: the layer has no place for each part of the image.
        """
        shapes = self.records[layer].shape, self.pictures.shape
        return find_layout(*shapes, layer=layer, last=is_last(self.net), locate=locate)

    def trace(
        self,
        layer: str,
        targets: Sequence[Callable[[Tensor], Tensor]],
        *,
        layout: Layout | None = None,
        rows: Sequence[int] | None = None,
        apart_from: Sequence[str] = (),
    ) -> Trace:
        """Return the pass seen at one layer.

        Args:
            layer: one of those recorded.
            targets: one per image.
            layout: axes of the output; default: channels first.
            rows: the images to look at, in that order; None for all.
            apart_from: recorded layers that come after it; what the layer does through them is not in its gradients.
        """
        return Trace(self, layer, targets, layout=layout or Layout(), rows=rows, apart_from=apart_from)

    def only(self, rows: Sequence[int], *, layer: str | None = None, layout: Layout | None = None) -> Forward:
        """Return the pass of some of the images alone.

        Args:
            rows: those images.
            layer: the one layer whose record is kept; None for none.
            layout: axes of its output; default: channels first.
        """
        indices = torch.tensor(list(rows), dtype=torch.long)
        inputs = take_images(self.inputs, indices, batch=self.batch)
        outputs = self.outputs[indices.to(self.outputs.device)]
        records = {} if layer is None else {layer: (layout or Layout()).take(self.records[layer], indices)}
        return replace(self, inputs=inputs, outputs=outputs, records=records)


@checked
def record(
    net: nn.Module,
    inputs: Any,
    *,
    layers: Sequence[str],
    edits: Mapping[str, Edit] | None = None,
    picture: Input = None,
    differentiable: bool = False,
    trunk: Trunk | None = None,
) -> Forward:
    """Run a network once and record it at some layers.

    Args:
        net: any network; it runs in eval mode and is restored bit for bit.
        inputs: (B, C, *space); a tuple of inputs is spread over the parameters of the network, and so is a dict whose
            keys are their names.
        layers: their names, see `tracing`.
        edits: layer name -> a change to its output.
        picture: which of several inputs is the batch of images: its number among the tensors, its key, or None for the
            first with axes of space.
        differentiable: keep the whole graph, from the inputs and parameters on.
        trunk: computes what comes before the first layer; None: the network itself.

    Raises:
        LayerError: a layer does not exist, or did not run.
        ModelError: the network cannot run on these inputs.
        TargetError: it does not return one row of scores per image.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(1))
    >>> forward = record(net, torch.ones(1, 1, 4, 4), layers=["1"])
    >>> forward.bypassed, forward.trace("1", [lambda out: out[0]]).gradients.shape
    ('softmax', torch.Size([1, 2, 2, 2]))
    """
    refuse_program(net)
    net, number = bare(net), find_picture(inputs, picture)
    batch = len(picture_of(inputs, number))
    if not differentiable:
        inputs = map_tensors(inputs, torch.Tensor.detach)
    running = getattr(trunk, "net", net)
    with contextlib.ExitStack() as stack:
        if trunk is not None:
            stack.enter_context(lock_of(running))
            edits = _in_turn(stack.enter_context(trunk(map_tensors(inputs, torch.clone))), edits or {})
        recording = stack.enter_context(tracing(running, layers, edits=edits, differentiable=differentiable))
        inputs = map_tensors(inputs, lambda tensor: tensor.clone() if tensor.is_inference() else tensor)
        returned = call(running, inputs)
        output = chosen_output()
        scores = unwrap(returned if output is not None else rows_of_list(returned, batch), output)
        outputs, bypassed = recording.logits(scores)
    for name in layers:
        if name not in recording.tensors:
            raise LayerError(f"layer {name!r} did not run in the forward pass; name a layer that does")
    return Forward(
        net,
        inputs,
        per_image(outputs, batch),
        bypassed,
        recording.tensors,
        recording.calls,
        number,
        differentiable,
        trunk,
        autocast=autocast_of(outputs.device.type),
        output=output,
        note="" if output is not None else other_outputs(returned, scores),
    )


def autocast_of(device: str) -> torch.dtype | None:
    """Return the dtype of the `torch.autocast` that is on for a kind of device; None: none is.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_of("cpu")
    torch.bfloat16
    """
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def _in_turn(first: Mapping[str, Edit], second: Mapping[str, Edit]) -> dict[str, Edit]:
    """Return the edits by layer; a layer in both mappings gets both edits, in order."""
    overlap = {name: _both(first[name], second[name]) for name in first.keys() & second.keys()}
    return {**first, **second, **overlap}


def _both(first: Edit, second: Edit) -> Edit:
    return lambda output: second(first(output))


class Trace:
    """One forward pass recorded at one layer, and the score to be explained in each image.

    Attributes:
        inputs: (B, C, *space), or a tuple where the network takes several.
        outputs: (B, ...) what the network returned, unwrapped, before a final softmax or sigmoid.
        scores: (B,) the explained score of each image.
        layer: name of the layer.
        layout: where batch, channels and space lie in its output.
        apart_from: recorded layers after it; what the layer does through them is not in its gradients.
        notes: for each image, what a method has to say about its map.
    """

    def __init__(
        self,
        forward: Forward,
        layer: str,
        targets: Sequence[Callable[[Tensor], Tensor]],
        *,
        layout: Layout,
        rows: Sequence[int] | None = None,
        apart_from: Sequence[str] = (),
    ) -> None:
        self.layer, self.targets, self.layout, self.apart_from = layer, list(targets), layout, tuple(apart_from)
        self._origin, self._rows = forward, rows
        with torch.inference_mode(mode=False), torch.enable_grad():
            self.forward = forward if rows is None else forward.only(rows, layer=layer, layout=layout)
            outputs = self.forward.outputs
            self.scores = torch.stack([_score(t, o) for t, o in zip(self.targets, outputs, strict=True)])
        self.inputs, self.outputs = self.forward.inputs, self.forward.outputs
        self.notes: list[list[str]] = [[] for _ in range(self.forward.batch)]

    @property
    def pictures(self) -> Tensor:
        """Return the images among the inputs, (B, C, *space)."""
        return self.forward.pictures

    @property
    def _call(self) -> str:
        """Return the layer by the number of its call, where it ran more than once: an edit is of that call alone."""
        calls = self.forward.calls[self.layer]
        return self.layer if calls == 1 or "#" in self.layer else f"{self.layer}#{calls - 1}"

    @property
    def _record(self) -> Tensor:
        return self.forward.records[self.layer]

    @property
    def leaf(self) -> Tensor:
        """Return the layer's output as it stands in the graph, for all images of the pass."""
        return self._origin.records[self.layer]

    def read(self, values: Tensor) -> Tensor:
        """Return values of the shape of `leaf`, for the images of this trace, as (B, K, *grid)."""
        if self._rows is not None:
            values = self.layout.take(values, torch.tensor(self._rows))
        return _at_least_float32(self.layout.read(values))

    def toward(self, targets: Sequence[Callable[[Tensor], Tensor]]) -> Trace:
        """Return the same pass for other scores, one per image."""
        return Trace(self._origin, self.layer, targets, layout=self.layout, rows=self._rows, apart_from=self.apart_from)

    @cached_property
    def activations(self) -> Tensor:
        """Return the output of the layer, (B, K, *grid); half precision becomes float32."""
        return self.read(self.leaf if self.forward.differentiable else self.leaf.detach())

    @cached_property
    def gradients(self) -> Tensor:
        """Return the gradient of each image's score, (B, K, *grid), without paths through ``apart_from``; cached."""
        return self.read(torch.zeros_like(self.leaf) if self._gradient is None else self._gradient)

    @property
    def connected(self) -> bool:
        """Return whether the score depends on the layer at all."""
        return self._gradient is not None

    @property
    def used_gradients(self) -> bool:
        """Return whether the gradients were used."""
        return "gradients" in self.__dict__

    def note(self, text: str, *, where: Tensor) -> None:
        """Add a note to the maps of the images for which ``where`` (B,) is true."""
        for image in where.nonzero().flatten().tolist():
            self.notes[image].append(text)

    @cached_property
    def _gradient(self) -> Tensor | None:
        if not self.scores.requires_grad:
            return None
        gradient: Tensor | None
        with contextlib.ExitStack() as stack:
            for name in self.apart_from:
                stack.callback(self._origin.records[name].register_hook(torch.zeros_like).remove)
            (gradient,) = torch.autograd.grad(
                self.scores,
                self.leaf,
                grad_outputs=torch.ones_like(self.scores),
                retain_graph=True,
                create_graph=self.forward.differentiable,
                allow_unused=True,
            )
        return gradient

    def again(self, inputs: Any = None, *, rows: Tensor | None = None, edit: Edit | None = None) -> Trace:
        """Return the same targets on other inputs, or with an edited layer output.

        Without ``inputs`` only the part of the network after the layer runs again (see `Tail`).

        Args:
            inputs: (n, C, *space) images, or a whole tuple of inputs; None for the inputs of this trace. Other
                inputs than the image are taken from this trace where only images are given.
            rows: (n,) the image of this trace that each of the n belongs to; None for all images in order.
            edit: (n, K, *grid) -> (n, K, *grid), a change to the layer's output.

        Returns:
            A trace of n images.
        """
        rows = torch.arange(self.forward.batch) if rows is None else rows.cpu()
        targets = [self.targets[row] for row in rows.tolist()]
        if inputs is None:
            forward = self._rerun(self._tail, rows, edit)
        else:
            if isinstance(inputs, Tensor) and not isinstance(self.inputs, Tensor):
                base_inputs = take_images(self.inputs, rows, batch=self.forward.batch)
                inputs = with_picture(base_inputs, inputs, picture=self.forward.picture)
            edits = None if edit is None else {self._call: lambda output: self._change(output, edit)}
            forward = self._record_again(self.forward.net, inputs, edits, self.forward.trunk)
        return forward.trace(self._call, targets, layout=self.layout, apart_from=self.apart_from)

    def _record_again(
        self, net: nn.Module, inputs: Any, edits: Mapping[str, Edit] | None, trunk: Any = None
    ) -> Forward:
        run = self.forward
        kind, dtype = run.outputs.device.type, run.autocast
        autocast = contextlib.nullcontext() if dtype is None else torch.autocast(kind, dtype)
        with autocast, choosing_output(run.output):
            layers = [self._call, *self.apart_from]
            return record(net, inputs, layers=layers, edits=edits, picture=run.picture, trunk=trunk)

    def _rerun(self, tail: Tail, rows: Tensor, edit: Edit | None) -> Forward:
        recorded = self.layout.take(self._record.detach(), rows)
        changed = recorded if edit is None else self._change(recorded, edit)
        with lock_of(tail.net), tail.replayed(rows) as inputs:
            forward = self._record_again(tail.net, inputs, {self._call: lambda _: changed})
        return replace(forward, net=self.forward.net)

    def _change(self, output: Tensor, edit: Edit) -> Tensor:
        """Apply an edit of (n, K, *grid) to what the layer returns."""
        activations = _at_least_float32(self.layout.read(output))
        return self.layout.write(output, edit(activations).to(output.dtype))

    @cached_property
    def _tail(self) -> Tail:
        """Return the cheapest tail that gives the same outputs, proved on a batch of another size and on one image."""
        batch, inputs = self.forward.batch, self.forward.inputs
        twin = replicate(self.forward.net)
        proofs = [torch.arange(batch + 1) % batch, torch.zeros(2, dtype=torch.long)]
        for values, copies in itertools.product((False, True), repeat=2):
            with contextlib.suppress(RuntimeError, ValueError, TypeError, IndexError, CamscopeError):
                tail = Tail.after(twin, self._call, inputs, batch=batch, values=values, copies=copies)
                if all(self._is_same(self._rerun(tail, rows, None), rows) for rows in proofs):
                    return tail
        return Tail(twin, inputs, batch, copies=True)

    def _is_same(self, forward: Forward, rows: Tensor) -> bool:
        expected = self.outputs.detach()[rows.to(self.outputs.device)]
        return torch.allclose(forward.outputs, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def _score(target: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    try:
        score = target(output)
    except (IndexError, KeyError) as error:
        raise TargetError(
            f"the target function failed on an output of shape {tuple(output.shape)} ({error}); of a network with "
            "several outputs choose one with output="
        ) from error
    if not isinstance(score, Tensor) or score.ndim:
        what = f"a tensor {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise TargetError(f"a target returns one number as a tensor without axes, and this one returned {what}")
    return score


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
