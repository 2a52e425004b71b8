"""OpenVINO engine: compiles the part of a network before the layer; the rest stays in PyTorch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import EngineError, first_line, require
from camscope.models.engines.ahead import Ahead, cuts_of
from camscope.models.weights import digest
from camscope.naming import cache_folder
from camscope.trace import tracing
from camscope.trace.replica import replicate

_PRECISIONS = {torch.float32: ("f32", "FP32"), torch.bfloat16: ("bf16", "BF16"), torch.float16: ("f16", "FP16")}
"""OpenVINO's names of a precision, as a setting and as a capability of the processor."""


def compiled(net: nn.Module, x: Any, *, layer: str, dtype: torch.dtype) -> Ahead:
    """Compile what comes before a layer, or take it from the cache on disk.

    Args:
        net: any network with one input, on the CPU, in float32.
        x: (B, C, h, w) inputs, as many as the passes to come will have: so many images run side by side.
        layer: its layer, which runs once in a pass, and whose output has the batch as first axis.
        dtype: what it computes in; inputs and outputs are float32.

    Raises:
        EngineError: OpenVINO cannot take this network, or the processor this dtype.
        MissingExtraError: it is not installed.
    """
    openvino = require("openvino", "engine='openvino'", "openvino")
    if not isinstance(x, Tensor) or x.device.type != "cpu" or x.dtype != torch.float32:
        raise EngineError("it takes networks of one input, on the CPU, in float32")
    cuts = cuts_of(net, x, layer=layer)
    core, sample, threads = _core(), x[:1], torch.get_num_threads()
    hint, capability = _PRECISIONS[dtype]
    if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineError(f"OpenVINO does not compute in {hint} on this processor")
    folder = cache_folder("openvino")
    file = folder / f"{_key(net, sample, cuts, openvino.__version__)}.xml"
    settings = {"NUM_STREAMS": min(threads, len(x)), "INFERENCE_NUM_THREADS": threads, "CACHE_DIR": str(folder)}
    try:
        model = core.read_model(file) if file.is_file() else _converted(openvino, replicate(net), sample, cuts, file)
        ready = core.compile_model(model, "CPU", settings | {"INFERENCE_PRECISION_HINT": hint})
    except Exception as error:  # the compiler raises many types; all mean the same here
        raise EngineError(
            f"OpenVINO cannot compile {type(net).__name__} up to {layer!r}: {first_line(error)}"
        ) from error
    queue = openvino.AsyncInferQueue(ready)
    shapes = [tuple(output.shape)[1:] for output in ready.outputs]
    return Ahead.of(net, x, cuts=cuts, compute=functools.partial(_computed, queue, shapes))


def _computed(queue: Any, shapes: Sequence[tuple[int, ...]], inputs: Tensor) -> Sequence[Tensor]:
    """Compute the outputs of single images, several at once."""
    outputs = [torch.empty(len(inputs), *shape) for shape in shapes]
    images, arrays = inputs.contiguous().numpy(), [output.numpy() for output in outputs]

    def keep(request: Any, row: int) -> None:
        for number, array in enumerate(arrays):
            array[row] = request.get_output_tensor(number).data[0]

    queue.set_callback(keep)
    for row in range(len(images)):
        queue.start_async([images[row : row + 1]], row, share_inputs=True)
    queue.wait_all()
    return outputs


@functools.cache
def _core() -> Any:
    """Return the only Core of this process.

    Each Core gives the thread that compiles first an alternate stack for signals, and takes it away when it is deleted.
    Of two Cores, the second one would put back the stack that the first one has freed: the next signal, such as that of
    a worker of a data loader that ends, would then stop the process.
    """
    import openvino

    return openvino.Core()


def _converted(openvino: Any, net: nn.Module, x: Tensor, cuts: Sequence[str], file: Path) -> Any:
    """Convert from a trace, and keep the result on disk where that is possible."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(_Trunk(net, cuts), example_input=x, input=[tuple(x.shape)])
    with contextlib.suppress(OSError, RuntimeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.stem}.{os.getpid()}.xml")
        openvino.save_model(model, unfinished, compress_to_fp16=False)
        unfinished.with_suffix(".bin").replace(file.with_suffix(".bin"))
        unfinished.replace(file)
    return model


class _Trunk(nn.Module):
    """A network that stops at some layers."""

    def __init__(self, net: nn.Module, cuts: Sequence[str]) -> None:
        super().__init__()
        self.net, self.cuts = net, cuts

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with tracing(self.net, self.cuts) as recording:
            self.net(x.clone())
        return tuple(recording.tensors[name].detach() for name in self.cuts)


def _key(net: nn.Module, x: Tensor, cuts: Sequence[str], version: str) -> str:
    """Return what the converted part depends on: structure, weights, cuts, size of the image, versions."""
    parts = f"{net!r} {cuts} {tuple(x.shape)} {version} {torch.__version__} {digest(net)}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]
