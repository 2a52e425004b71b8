"""Select the engine for the part before the layer, and check that it computes the same."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import EngineError, MissingExtraError, SettingError, nearest
from camscope.models.device import hand_back
from camscope.models.engines.openvino import compiled
from camscope.models.engines.packed import pack
from camscope.models.probe_cache import structure_of
from camscope.trace import record
from camscope.trace.forward import Trunk, autocast_of
from camscope.trace.pytree import picture_of, take_images, tensors

ENGINES = ("auto", "eager", "packed", "openvino")

TOLERANCE = 1e-4
"""Maximum error of the layer's and the network's outputs, relative to their largest absolute value in eager float32."""

_PACKED_FROM = 24


@dataclass(frozen=True)
class PreparedEngine:
    """An engine prepared for one network and layer.

    Attributes:
        name: "eager", "packed" or "openvino": what really computes.
        trunk: for `record`; None for eager.
        note: why it differs from the requested engine, or "".
        mark: identifier of its weights, see `_mark`.
    """

    name: str
    trunk: Trunk | None = None
    note: str = ""
    mark: tuple[Any, ...] = ()


_EAGER = PreparedEngine("eager")
_prepared: weakref.WeakKeyDictionary[nn.Module, dict[Any, PreparedEngine]] = weakref.WeakKeyDictionary()


def resolve(engine: str, pictures: int | None, *, device: str = "cpu") -> str:
    """Return the engine for a number of images that are coming.

    Packing costs about four passes of one image: "auto" is "packed" from 24 images on. Compiling costs hundreds and
    gains on networks of many small layers only (`docs/speed.md`): "openvino" is for those who ask for it. Under
    `torch.autocast` "auto" is "eager": nothing proves to be the same there.

    Args:
        engine: one of `ENGINES`.
        pictures: how many; None where nobody knows: many enough to pack.
        device: type of the model's device.

    Raises:
        SettingError: there is no such engine.

    >>> resolve("auto", 1), resolve("auto", 200), resolve("eager", 200)
    ('eager', 'packed', 'eager')
    """
    if engine not in ENGINES:
        raise SettingError(nearest("engine", engine, ENGINES))
    if engine != "auto":
        return engine
    few = pictures is not None and pictures < _PACKED_FROM
    return "eager" if few or autocast_of(device) is not None else "packed"


def prepare(net: nn.Module, x: Any, *, layer: str, engine: str) -> PreparedEngine:
    """Prepare an engine, check on these inputs that it computes the same as the network, and cache it.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs.
        layer: its layer.
        engine: one of `ENGINES`; "auto" chooses by the number of inputs.

    Returns:
        The engine; eager with a note if the requested one does not support the network or is not exact enough.

    Raises:
        SettingError: there is no such engine.
        MissingExtraError: OpenVINO is not installed.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> prepare(net, torch.randn(2, 3, 32, 32), layer="1", engine="packed").name
    'packed'
    """
    inputs = list(tensors(x))
    engine = resolve(engine, len(picture_of(x)), device=inputs[0].device.type)
    if engine == "eager":
        return _EAGER
    engines = _prepared.setdefault(net, {})
    key = (engine, layer, tuple(tensor.shape[1:] for tensor in inputs), autocast_of(inputs[0].device.type))
    mark = _mark(net)
    if key not in engines or engines[key].mark != mark:
        engines[key] = replace(_proved(net, x, layer, engine), mark=mark)
        hand_back()
    return engines[key]


def outputs(net: nn.Module, x: Any, *, layer: str | None, engine: str) -> Tensor:
    """Return the outputs (B, ...) of a network before a last softmax or sigmoid, with an engine before a layer.

    Args:
        net: any network.
        x: inputs, see `prepare`.
        layer: its layer; None, and "eager": the network itself computes all.
        engine: one of `ENGINES`.
    """
    trunk = None if layer is None or engine == "eager" else prepare(net, x, layer=layer, engine=engine).trunk
    layers = [] if layer is None or trunk is None else [layer]
    return record(net, x, layers=layers, trunk=trunk).outputs.detach()


def _mark(net: nn.Module) -> tuple[Any, ...]:
    """Return what changes with the network's modules, their settings, and its weights, however they are written to.

    Writes through ``.data`` or NumPy leave no trace but the values: their sums and norms are compared.
    """
    weights = [tensor.detach() for tensor in (*net.parameters(), *net.buffers())]
    floats = [tensor for tensor in weights if tensor.is_floating_point() and tensor.numel() and not tensor.is_quantized]
    with torch.no_grad():
        values = [torch.stack([tensor.float().sum(), tensor.float().norm()]).tolist() for tensor in floats]
    places = ((tensor.data_ptr(), tensor.dtype, tensor.device) for tensor in weights)
    return (structure_of(net), tuple(places), tuple(map(tuple, values)))


def _proved(net: nn.Module, x: Any, layer: str, engine: str) -> PreparedEngine:
    try:
        few = take_images(x, slice(2), batch=len(picture_of(x)))
        expected = record(net, few, layers=[layer])
        if expected.calls[layer] > 1 and "#" not in layer:
            raise EngineError(f"{layer!r} runs {expected.calls[layer]} times in a pass")
        trunk = _MAKERS[engine](net, x, layer)
        for images, inputs in ((1, take_images(few, slice(1), batch=expected.batch)), (expected.batch, few)):
            result = record(net, inputs, layers=[layer], trunk=trunk)
            _same(result.records[layer], expected.records[layer][:images])
            _same(result.outputs, expected.outputs[:images])
    except MissingExtraError:
        raise
    except Exception as error:  # after any exception, the network itself is used
        return PreparedEngine("eager", note=f"computed without engine {engine}: {error}")
    return PreparedEngine(engine, trunk)


def _packed(net: nn.Module, x: Any, layer: str) -> Trunk:
    images = len(picture_of(x))
    trunk = pack(net, take_images(x, slice(1), batch=images), layer=layer, batch=images)
    if not trunk.products:
        raise EngineError(f"nothing before {layer!r} can be packed")
    return trunk


def _openvino(net: nn.Module, x: Any, layer: str) -> Trunk:
    if not isinstance(x, Tensor) or x.device.type != "cpu" or x.dtype != torch.float32:
        raise EngineError("it takes networks of one input, on the CPU, in float32")
    return compiled(net, x, layer=layer)


_MAKERS = {"packed": _packed, "openvino": _openvino}


def _same(actual: Tensor, expected: Tensor) -> None:
    """Raise unless two results agree."""
    if actual.shape != expected.shape:
        raise EngineError(f"its results have shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    largest = expected.detach().abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    error = float((actual.detach() - expected.detach()).abs().max() / largest)
    if not error <= TOLERANCE:
        raise EngineError(f"its results differ by {error:.1e} of the largest value")
