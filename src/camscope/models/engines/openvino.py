"""OpenVINO engine: compiles the part of a network before the layer; the rest stays in PyTorch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import EngineError, first_line, require
from camscope.models.engines.thin import ThinProducts
from camscope.models.weights import digest
from camscope.naming import cache_folder
from camscope.trace import record, tracing
from camscope.trace.hooks import Edit
from camscope.trace.replay import Tail
from camscope.trace.replica import replicate


@dataclass(frozen=True)
class Compiled:
    """A compiled trunk. It takes single images and runs several at once.

    Attributes:
        layer: where it ends.
        queue: OpenVINO's queue of requests, as many as images run side by side.
        shape: of the layer's output for one image.
        tail: what stands in for the modules before the layer.
    """

    layer: str
    queue: Any
    shape: tuple[int, ...]
    tail: Tail

    @property
    def net(self) -> nn.Module:
        """Return the copy of the network that begins at the layer."""
        return self.tail.net

    @contextlib.contextmanager
    def __call__(self, inputs: Tensor) -> Iterator[Mapping[str, Edit]]:
        """Compute the layer's output, and let the network begin there while the context is open."""
        output = self._of(inputs)
        with self.tail.replayed(torch.zeros(len(inputs), dtype=torch.long)), ThinProducts():
            yield {self.layer: lambda _: output}

    def _of(self, inputs: Tensor) -> Tensor:
        output = torch.empty(len(inputs), *self.shape)
        images, rows = inputs.contiguous().numpy(), output.numpy()

        def keep(request: Any, row: int) -> None:
            rows[row] = request.get_output_tensor().data[0]

        self.queue.set_callback(keep)
        for row in range(len(images)):
            self.queue.start_async([images[row : row + 1]], row, share_inputs=True)
        self.queue.wait_all()
        return output


def compiled(net: nn.Module, x: Tensor, *, layer: str) -> Compiled:
    """Compile what comes before a layer, or take it from the cache on disk.

    Args:
        net: any network with one input, on the CPU, in float32.
        x: (B, C, h, w) inputs, as many as the passes to come will have: so many images run side by side.
        layer: its layer, which runs once in a pass, and whose output has the batch as first axis.

    Raises:
        EngineError: OpenVINO cannot take this network.
        MissingExtraError: it is not installed.
    """
    openvino = require("openvino", "engine='openvino'", "openvino")
    core = _core()
    sample, threads = x[:1], torch.get_num_threads()
    file = cache_folder("openvino") / f"{_key(net, sample, layer, openvino.__version__)}.xml"
    settings = {"NUM_STREAMS": min(threads, len(x)), "INFERENCE_NUM_THREADS": threads}
    try:
        model = core.read_model(file) if file.is_file() else _converted(openvino, replicate(net), sample, layer, file)
        ready = core.compile_model(model, "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # the compiler raises many types; all mean the same here
        raise EngineError(
            f"OpenVINO cannot compile {type(net).__name__} up to {layer!r}: {first_line(error)}"
        ) from error
    shape = tuple(ready.output().shape)[1:]
    light = Compiled(layer, openvino.AsyncInferQueue(ready), shape, Tail.after(replicate(net), layer, sample, batch=1))
    with contextlib.suppress(RuntimeError):
        record(net, x, layers=[layer], trunk=light)
        return light
    return replace(light, tail=replace(light.tail, copies=True))  # the network may write into the result


@functools.cache
def _core() -> Any:
    """Return the only Core of this process.

    Each Core gives the thread that compiles first an alternate stack for signals, and takes it away when it is deleted.
    Of two Cores, the second one would put back the stack that the first one has freed: the next signal, such as that of
    a worker of a data loader that ends, would then stop the process.
    """
    import openvino

    return openvino.Core()


def _converted(openvino: Any, net: nn.Module, x: Tensor, layer: str, file: Path) -> Any:
    """Convert from a trace, and keep the result on disk where that is possible."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(_Trunk(net, layer), example_input=x, input=[tuple(x.shape)])
    with contextlib.suppress(OSError, RuntimeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.stem}.{os.getpid()}.xml")
        openvino.save_model(model, unfinished, compress_to_fp16=False)
        unfinished.with_suffix(".bin").replace(file.with_suffix(".bin"))
        unfinished.replace(file)
    return model


class _Trunk(nn.Module):
    """A network that stops at a layer."""

    def __init__(self, net: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer = net, layer

    def forward(self, x: Tensor) -> Tensor:
        with tracing(self.net, [self.layer]) as recording:
            self.net(x.clone())
        return recording.tensors[self.layer].detach()


def _key(net: nn.Module, x: Tensor, layer: str, version: str) -> str:
    """Return what the compiled trunk depends on: structure, weights, layer, size of the image, versions."""
    parts = f"{net!r} {layer} {tuple(x.shape)} {version} {torch.__version__} {digest(net)}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]
