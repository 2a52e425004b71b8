"""Convert a network to a Model, with the preprocessing and classes that it carries, or with stated assumptions."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from camscope.models.labels import Labels, read_labels
from camscope.models.model import Model, Outcome, assumed_for, input_channels
from camscope.models.preprocess import IMAGENET_MEAN, Preprocess, assumed_preprocess
from camscope.models.untrained import looks_new, marked

AnyPreprocess = Preprocess | Callable[..., Any]
"""A Preprocess, or a callable that becomes a `Transform`."""

_SIZE = 224


class _NetworkFacts(NamedTuple):
    """The preprocessing, labels and outcome that a network carries, its layer and name, and itself with one output."""

    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    outcome: Outcome = "one"
    assumed: str = ""
    wrapped: nn.Module | None = None
    layer: str | None = None
    name: str = ""


def from_module(
    net: nn.Module,
    *,
    preprocess: AnyPreprocess | None = None,
    labels: Labels | None = None,
    name: str | None = None,
    outcome: Outcome | None = None,
) -> Model:
    """Return a Model for a network; the network is not changed.

    Without preprocessing or class names, those that the network carries are used: timm's
    ``pretrained_cfg``, the configuration of a Hugging Face model and its processor on this machine, or a torchvision
    weights entry in ``net.weights``. Detectors of torchvision, Ultralytics and transformers, and segmentation networks
    of transformers, return one tensor of boxes or score maps, as models from `camscope.load` do. A Keras model is
    copied.
    Otherwise ImageNet's normalisation at 224 x 224 is assumed, with the number of channels of the first convolution,
    or, if that is of volumes, the preprocessing of `assumed_volume_preprocess`; and every explanation has a note about
    it (``facts["assumed"]``).

    Args:
        net: any network that takes (B, C, h, w), or volumes (B, C, *size).
        preprocess: a Preprocess, or a callable (see `Transform`).
        labels: class names, or the path of a file with them.
        name: name of the model in results; None: the name of the network's class.
        outcome: "one", "any", "value" or "boxes" (see `Model`); None: that of the network, else "any" for a
            single label, else "one".

    Raises:
        ModelError: a preprocessing that cannot be used.
        SettingError: a preprocessing that is not callable.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> model = from_module(net, labels=["normal", "effusion"])
    >>> model.name, model.preprocess.channels, model.facts["assumed"][:26]
    ('Sequential', 1, 'no preprocessing was given')
    """
    bare = net
    for wrapper in ("_orig_mod", "module"):  # prefixes of torch.compile and DataParallel
        bare = getattr(bare, wrapper, bare)
    details = (
        _of_timm(bare)
        or _of_transformers(bare, preprocess)
        or _of_ultralytics(bare)
        or _of_torchvision_detector(bare)
        or _of_torchvision(bare)
        or _of_keras(bare)
        or _NetworkFacts()
    )
    names = details.labels if labels is None else tuple(read_labels(labels))
    assumed = ""
    if preprocess is None:
        preprocess, assumed = details.preprocess, details.assumed
    if preprocess is None:
        preprocess, assumed = assumed_for(bare)
    model = Model(
        name or details.name or type(bare).__name__,
        net if details.wrapped is None else details.wrapped,
        preprocess=preprocess,  # type: ignore[arg-type]  # a callable becomes a Transform
        labels=names,
        layer=details.layer,
        outcome=outcome or ("any" if len(names) == 1 else details.outcome),
        facts={"assumed": assumed} if assumed else {},
    )
    return marked(model, weights="none") if looks_new(bare) else model


def _of_timm(net: Any) -> _NetworkFacts | None:
    cfg = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None)
    if not isinstance(cfg, Mapping) or not {"mean", "std", "input_size"} <= cfg.keys():
        return None
    from camscope.models.sources import timm as source

    channels = input_channels(net) or len(cfg["mean"])
    preprocess = source.preprocess_of(cfg, None, {"in_chans": channels})
    classes = getattr(net, "num_classes", None)
    return _NetworkFacts(
        preprocess,
        labels=source.labels_of(net) if hasattr(net, "pretrained_cfg") else (),
        outcome="any" if classes == 1 else "value" if classes == 0 else "one",
        assumed="" if channels in (1, len(cfg["mean"])) else source.repeated_normalisation(channels),
    )


def _of_transformers(net: Any, custom: AnyPreprocess | None) -> _NetworkFacts | None:
    config = getattr(net, "config", None)
    if not type(config).__module__.startswith("transformers."):
        return None
    from camscope.models.sources import hf, hf_pictures
    from camscope.models.sources.hf_dense import Detector, Segmenter

    importlib.import_module("transformers")
    vision = getattr(config, "vision_config", config)
    name = str(getattr(config, "_name_or_path", ""))
    assumed = ""
    preprocess: Any = custom
    if custom is None and (processor := hf_pictures.processor_of(name, offline=True)) is not None:
        preprocess = hf_pictures.read_processor(processor, whole=hf.task_of(type(net).__name__) in ("boxes", "maps"))
    elif custom is None:
        size = getattr(vision, "image_size", None) or _SIZE
        size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        channels = getattr(vision, "num_channels", None) or input_channels(net) or len(IMAGENET_MEAN)
        preprocess, assumed = assumed_preprocess(int(channels), size)
    task = hf.task_of(type(net).__name__) or ("classifier" if "Classification" in type(net).__name__ else None)
    labels = hf.labels_of(config, task) if task else ()
    if task == "boxes":
        return _NetworkFacts(preprocess, labels, "boxes", assumed, Detector(net, int(getattr(config, "num_labels", 0))))
    if task == "maps":
        return _NetworkFacts(preprocess, labels, hf.outcome_of(config, net), assumed, Segmenter(net))
    return _NetworkFacts(preprocess, labels, hf.outcome_of(config, net) if task else "one", assumed)


def _is_of(package: str, net: Any) -> bool:
    """Return whether a network, or a class that it is derived from, is of a package."""
    return any(kind.__module__.startswith(package) for kind in type(net).__mro__)


def _of_ultralytics(net: Any) -> _NetworkFacts | None:
    """Return the facts of a YOLO or RT-DETR, also inside the package's own wrapper."""
    if not _is_of("ultralytics.", net):
        return None
    from camscope.models.sources import ultralytics as source

    inner = net.model if _is_of("ultralytics.engine", net) else net
    wrapped, preprocess, labels, layer = source.of_module(inner)
    return _NetworkFacts(
        preprocess, labels, "boxes" if isinstance(wrapped, source.UltralyticsDetector) else "one", "", wrapped, layer
    )


def _of_torchvision_detector(net: Any) -> _NetworkFacts | None:
    if not (_is_of("torchvision.models.detection", net) and hasattr(net, "transform")):
        return None
    from camscope.models.sources import torchvision_boxes as source

    layer = None
    with contextlib.suppress(AttributeError, TypeError):  # a user's backbone is probed
        layer = source.layer_of(net)
    return _NetworkFacts(source.preprocess_of(net), (), "boxes", "", source.TorchvisionDetector(net), layer)


def _of_torchvision(net: Any) -> _NetworkFacts | None:
    entry: Any = getattr(net, "weights", None)
    if not hasattr(entry, "transforms") or not isinstance(getattr(entry, "meta", None), Mapping):
        return None
    from camscope.models.sources import torchvision as source

    preset = entry.transforms()
    is_complete = all(hasattr(preset, field) for field in ("mean", "std", "interpolation", "resize_size"))
    if not is_complete:
        return None
    return _NetworkFacts(source.preprocess_of(preset), labels=tuple(entry.meta.get("categories") or ()))


def _of_keras(net: Any) -> _NetworkFacts | None:
    """Return the facts of a Keras model in memory, which is copied."""
    if not (_is_of("keras.", net) and hasattr(net, "get_config")):
        return None
    from camscope.models.sources.keras import of_model

    model = of_model(net)
    return _NetworkFacts(model.preprocess, (), model.outcome, model.facts["assumed"], model.net, name=model.name)
