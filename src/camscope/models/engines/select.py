"""Select the engine and the precision of the part before the layer, and check what it computes."""

from __future__ import annotations

import importlib.util
import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import EngineError, MissingExtraError, SettingError, nearest
from camscope.models.device import hand_back
from camscope.models.engines.agreement import LEAST, Agreement, agreement
from camscope.models.engines.ahead import Ahead
from camscope.models.engines.lowered import lowered
from camscope.models.engines.openvino import compiled
from camscope.models.probe_cache import structure_of
from camscope.trace import record
from camscope.trace.forward import autocast_of
from camscope.trace.pytree import picture_of, take_images, tensors

ENGINES = ("auto", "eager", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16", "auto")

TOLERANCE = 1e-4
"""Maximum error of the layer's and the network's outputs in float32, relative to their largest absolute value."""

EDITS = 20
"""Number of edits of each image that an audit or an evaluation scores, at least."""

_COMPILED_FROM = 400
_COMPARED = 8
"""Number of images on which a lower precision is compared with float32."""

_MAKERS = {"eager": lowered, "openvino": compiled}


@dataclass(frozen=True)
class PreparedEngine:
    """An engine prepared for one network and layer.

    Attributes:
        name: "eager" or "openvino": what really computes.
        precision: the precision that it computes in; for the network itself "float32", or what its weights have.
        trunk: for `record`; None for the network itself.
        note: why it differs from what was requested, or "".
        agreement: with float32, for a lower precision.
        mark: identifier of the network's weights, see `_mark`.
    """

    name: str
    precision: str = "float32"
    trunk: Ahead | None = None
    note: str = ""
    agreement: Agreement | None = None
    mark: tuple[Any, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Return the note, or how well a lower precision agrees with float32."""
        if self.note or self.agreement is None:
            return [self.note] if self.note else []
        return [f"computed in {self.precision} before the layer: {self.agreement}"]


_prepared: weakref.WeakKeyDictionary[nn.Module, dict[Any, PreparedEngine]] = weakref.WeakKeyDictionary()


def resolve(engine: str, pictures: int | None, *, device: str = "cpu") -> str:
    """Return the engine for a number of images that are coming.

    Compiling takes OpenVINO as long as 160 to 440 images take PyTorch, and saves a fifth to three quarters of the time
    afterwards (`docs/speed.md`): "auto" is "openvino" from 400 images on, on the CPU, if it is installed. Under
    `torch.autocast` "auto" is "eager": nothing proves to be the same.

    Args:
        engine: one of `ENGINES`.
        pictures: how many; None if unknown, which counts as few.
        device: type of the model's device.

    Raises:
        SettingError: there is no such engine.

    >>> resolve("auto", 1), resolve("openvino", 1), resolve("eager", 2000)
    ('eager', 'openvino', 'eager')
    """
    if engine not in ENGINES:
        raise SettingError(nearest("engine", engine, ENGINES))
    if engine != "auto":
        return engine
    many = pictures is not None and pictures >= _COMPILED_FROM
    can_compile = device == "cpu" and autocast_of(device) is None and importlib.util.find_spec("openvino") is not None
    return "openvino" if many and can_compile else "eager"


def resolve_precision(precision: str, *, device: str = "cpu") -> str:
    """Return the precision that "auto" stands for: bfloat16 if the device computes it, or else float32.

    Raises:
        SettingError: there is no such precision.

    >>> resolve_precision("float16"), resolve_precision("auto", device="mps")
    ('float16', 'float32')
    """
    if precision not in PRECISIONS:
        raise SettingError(nearest("precision", precision, PRECISIONS))
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if device == "cpu" and any(check is not None and check() for check in has) else "float32"


def prepare(net: nn.Module, x: Any, *, layer: str, engine: str, precision: str = "float32") -> PreparedEngine:
    """Prepare an engine, compare it with the network on these inputs, and cache it.

    In float32 it must compute the same, up to `TOLERANCE`. In a lower precision its maps must agree with those in
    float32, see `Agreement`.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs.
        layer: its layer.
        engine: one of `ENGINES`; "auto" chooses by the number of inputs.
        precision: one of `PRECISIONS`, of the part before the layer.

    Returns:
        The engine; the network itself with a note if the requested one does not support it or does not agree.

    Raises:
        SettingError: there is no such engine or precision.
        MissingExtraError: OpenVINO is not installed.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> prepared = prepare(net, torch.randn(2, 3, 32, 32), layer="1", engine="eager", precision="bfloat16")
    >>> prepared.name, prepared.precision
    ('eager', 'bfloat16')
    """
    inputs = list(tensors(x))
    device = inputs[0].device.type
    engine = resolve(engine, len(picture_of(x)), device=device)
    precision = resolve_precision(precision, device=device)
    own = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    if own is not torch.float32 and precision != "float32":
        text = f"computed in {_name(own)}, which its weights have, not in {precision}"
        return PreparedEngine("eager", _name(own), note="" if _name(own) == precision else text)
    if engine == "eager" and precision == "float32":
        return PreparedEngine("eager", _name(own))
    engines = _prepared.setdefault(net, {})
    key = (engine, precision, layer, tuple(tensor.shape[1:] for tensor in inputs), autocast_of(device))
    mark = _mark(net)
    if key not in engines or engines[key].mark != mark:
        engines[key] = replace(_compared(net, x, layer, engine, precision), mark=mark)
        hand_back()
    return engines[key]


def outputs(net: nn.Module, x: Any, *, layer: str | None, engine: str) -> Tensor:
    """Return the outputs (B, ...) of a network before a last softmax or sigmoid, with an engine before a layer.

    Args:
        net: any network.
        x: inputs, see `prepare`.
        layer: its layer; None: the network itself computes all.
        engine: one of `ENGINES`.
    """
    trunk = None if layer is None or engine == "eager" else prepare(net, x, layer=layer, engine=engine).trunk
    layers = [] if layer is None or trunk is None else [layer]
    return record(net, x, layers=layers, trunk=trunk).outputs.detach()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _compared(net: nn.Module, x: Any, layer: str, engine: str, precision: str) -> PreparedEngine:
    lower = precision != "float32"
    wanted = f"{engine} in {precision}" if lower else engine
    try:
        few = take_images(x, slice(_COMPARED if lower else 2), batch=len(picture_of(x)))
        expected = record(net, few, layers=[layer])
        if expected.calls[layer] > 1 and "#" not in layer:
            raise EngineError(f"{layer!r} runs {expected.calls[layer]} times in a pass")
        trunk = _MAKERS[engine](net, x, layer=layer, dtype=getattr(torch, precision))
        if lower:
            found = agreement(record(net, few, layers=[layer], trunk=trunk), expected, layer=layer)
            if found.correlation < LEAST:
                return PreparedEngine(
                    "eager", note=f"computed in float32, not in {precision}: {found}", agreement=found
                )
            return PreparedEngine(engine, precision, trunk, agreement=found)
        for images, inputs in ((1, take_images(few, slice(1), batch=expected.batch)), (expected.batch, few)):
            result = record(net, inputs, layers=[layer], trunk=trunk)
            _same(result.records[layer], expected.records[layer][:images])
            _same(result.outputs, expected.outputs[:images])
    except MissingExtraError:
        raise
    except Exception as error:  # after any exception, the network itself is used
        return PreparedEngine("eager", note=f"computed without engine {wanted}: {error}")
    return PreparedEngine(engine, trunk=trunk)


def _same(actual: Tensor, expected: Tensor) -> None:
    """Raise unless two results agree."""
    if actual.shape != expected.shape:
        raise EngineError(f"its results have shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    largest = expected.detach().abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    error = float((actual.detach() - expected.detach()).abs().max() / largest)
    if not error <= TOLERANCE:
        raise EngineError(f"its results differ by {error:.1e} of the largest value")
