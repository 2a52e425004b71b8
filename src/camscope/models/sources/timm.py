"""Image classifiers of timm (PyTorch Image Models, Ross Wightman)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from camscope.errors import ModelError, SettingError, nearest
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Fit, Preprocess, of_channels
from camscope.models.pretrained import out_of_reach, reachable, torch_cache
from camscope.models.sources.registry import source
from camscope.models.sources.timm_weights import fill_from
from camscope.models.untrained import NEW_HEAD
from camscope.models.weight_names import ALL, KeyFilter
from camscope.models.weights import file_sha256, read_weights

_FITS: dict[str, Fit] = {"center": "crop", "squash": "squash", "border": "pad"}
# Keywords of timm that would override the weights chosen by `load`.
_RESERVED = ("num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def names() -> list[str]:
    """Return every architecture of timm."""
    import timm

    return list(timm.list_models())


@source("timm", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    keys: KeyFilter = ALL,
) -> Model:
    """Return a network of timm, with the preprocessing of its published weights and ImageNet's names where they fit.

    A file of weights for another input size, as its tables of positions tell, sets the input size; where the caller
    chose one, the tables are interpolated. Both are noted in ``facts``.
    """
    import timm

    spec = f"timm:{name}"
    reserved = [key for key in options if key in _RESERVED]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: weights=, classes= and input_size= set it")
    if not timm.is_model(name.partition(".")[0]):
        raise ModelError(nearest("timm model", name, names()))
    channels = options.get("in_chans", 3)
    if not isinstance(channels, int) or channels < 1:
        raise SettingError(f"in_chans must be a number of channels, at least 1, but got {channels!r}")
    cfg = _configuration(name)
    if weights == "default":
        _require_published(spec, cfg)
    keywords = {"num_classes": classes, **options}
    if input_size is not None and cfg.get("fixed_input_size"):
        keywords.setdefault("img_size", input_size)
    try:
        net = _build(name, keywords, pretrained=weights == "default")
    except OSError as error:
        raise _out_of_reach(spec, cfg) from error
    facts = _facts_of_published(spec, cfg, keywords) if weights == "default" else {}
    sha256 = None
    if isinstance(weights, Path):
        img_size = keywords.get("img_size")

        def sized(size: tuple[int, int]) -> Any:
            return _build(name, {**keywords, "img_size": size})

        base_size = _sides(img_size or cfg["input_size"][1:]) if cfg.get("fixed_input_size") else None
        net, facts, found_size = fill_from(
            net,
            read_weights(weights),
            size=base_size,
            fixed=img_size is not None,
            sized=sized,
            keys=keys,
            origin=str(weights),
        )
        input_size = input_size or found_size
        sha256 = file_sha256(weights)
    if channels not in (1, 3) and weights != "none":
        facts = {**facts, "assumed": repeated_normalisation(channels)}
    recipe = Recipe(spec, classes=net.num_classes, options=dict(options), weights=str(weights), sha256=sha256)
    return Model(
        spec,
        net,
        preprocess=preprocess_of(net.pretrained_cfg, input_size, options),
        labels=labels_of(net),
        recipe=recipe,
        facts=facts,
    )


def repeated_normalisation(channels: int) -> str:
    """Return the text on the normalisation assumed for a network with neither 1 nor 3 channels."""
    return (
        f"the weights are published for 3 channels, so the mean and std of red, green and blue are assumed in turn for "
        f"the {channels} channels of the network; set others with mean= and std="
    )


def _sides(size: Any) -> tuple[int, int]:
    """Return (height, width) of a size that may be one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _facts_of_published(spec: str, cfg: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return what timm changes in published weights: positions for another input size, and a new classifier."""
    facts: dict[str, Any] = {}
    base = _sides(cfg["input_size"][1:])
    size = _sides(keywords.get("img_size") or base)
    if size != base:
        facts["weights_note"] = (
            f"the published weights of {spec} are for {base[0]} x {base[1]} pixels; tables of positions were "
            f"interpolated to {size[0]} x {size[1]}"
        )
    if keywords["num_classes"] not in (None, cfg.get("num_classes")):
        facts[NEW_HEAD] = True
    return facts


def _configuration(name: str) -> Mapping[str, Any]:
    """Return what timm knows of a name: where its weights are, and how its images were preprocessed."""
    import timm

    try:
        registered = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        architecture = name.partition(".")[0]
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        raise ModelError(nearest("timm model", name, [architecture, *tags])) from error
    if registered is not None:
        return asdict(registered)
    # Old names without tags are not in timm's registry, but the network has its configuration.
    return dict(_build(name, {}).pretrained_cfg)


def _build(name: str, options: Mapping[str, Any], *, pretrained: bool = False) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except OSError:
        raise  # download errors, which the caller explains
    except Exception as error:
        keywords = {key: value for key, value in options.items() if value is not None}
        raise ModelError(f"timm cannot build {name} with options {keywords}: {error}") from error


def _require_published(spec: str, cfg: Mapping[str, Any]) -> None:
    """Make sure that the weights lie in a cache or can be fetched, before timm tries and tries."""
    if not any(cfg.get(key) for key in ("hf_hub_id", "url", "file")):
        raise ModelError(f"timm publishes no weights for {spec}: pass weights=FILE, or weights='none' for random ones")
    if not cfg.get("hf_hub_id"):
        if not (torch_cache() / _file(cfg)).is_file() and not reachable(_address(cfg)):
            raise _out_of_reach(spec, cfg)
        return
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = cfg["hf_hub_id"].partition("@")
    files = {_file(cfg), "pytorch_model.bin"}
    cached = any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files)
    if not cached and (constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)):
        raise _out_of_reach(spec, cfg)


def _address(cfg: Mapping[str, Any]) -> str:
    url = cfg["url"]
    return str(url if isinstance(url, str) else url[0])


def _file(cfg: Mapping[str, Any]) -> str:
    """Return the name of the published file."""
    if cfg.get("hf_hub_id"):
        return str(cfg.get("hf_hub_filename") or "model.safetensors")
    return Path(urlsplit(_address(cfg)).path).name if isinstance(cfg["url"], str) else str(cfg["url"][1])


def _out_of_reach(spec: str, cfg: Mapping[str, Any]) -> ModelError:
    return out_of_reach(spec, _file(cfg), hub=cfg.get("hf_hub_id"))


def preprocess_of(cfg: Mapping[str, Any], input_size: tuple[int, int] | None, options: Mapping[str, Any]) -> Preprocess:
    """Return timm's evaluation preprocessing."""
    from timm.data.config import resolve_data_config

    size = input_size or options.get("img_size")
    overrides = {} if size is None else {"input_size": (cfg["input_size"][0], *_sides(size))}
    data: dict[str, Any] = resolve_data_config(overrides, pretrained_cfg=dict(cfg))  # type: ignore[no-untyped-call]
    height, width = data["input_size"][1:]
    mean, std = tuple(data["mean"]), tuple(data["std"])
    mean, std = of_channels(mean, options.get("in_chans", 3)), of_channels(std, options.get("in_chans", 3))
    return Preprocess(
        input_size=(height, width),
        mean=mean,
        std=std,
        fit=_FITS[data["crop_mode"]],
        resize=(int(height / data["crop_pct"]), int(width / data["crop_pct"])),
        interpolation=data["interpolation"],
    )


def labels_of(net: Any) -> tuple[str, ...]:
    """Return ImageNet's class names, for a published architecture whose classifier still has as many outputs."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    cfg = net.pretrained_cfg
    published = any(cfg.get(key) for key in ("hf_hub_id", "url", "file"))
    subset = infer_imagenet_subset(dict(cfg))
    outputs = getattr(net.get_classifier(), "out_features", net.num_classes)  # also of one that was replaced by hand
    if not published or subset is None or {outputs, net.num_classes} != {cfg.get("num_classes")}:
        return ()
    return tuple(ImageNetInfo(subset).label_descriptions())
