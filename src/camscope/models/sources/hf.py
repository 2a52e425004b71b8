"""Image models of Hugging Face transformers, from its hub or from a folder that ``save_pretrained`` wrote."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from camscope.errors import ModelError, SettingError, nearest, require
from camscope.models.model import Model, Outcome, Recipe
from camscope.models.published import reachable
from camscope.models.sources.hf_pictures import preprocess_of
from camscope.models.sources.hf_texts import Embedding, Similarities, text_embeddings
from camscope.models.sources.registry import source
from camscope.models.weights import file_sha256, fill, read_weights

Kind = Literal["classifier", "texts", "embedding"]

# What transformers would take for settings of its loaders, and what load has arguments of its own for.
_RESERVED = ("num_labels", "id2label", "label2id", "trust_remote_code", "state_dict", "config")
_OUTCOMES: dict[str | None, Outcome] = {
    "multi_label_classification": "any",
    "regression": "value",
    "single_label_classification": "one",
}
_EXAMPLES = (
    *("apple/mobilevit-small", "apple/mobilevitv2-1.0-imagenet1k-256", "facebook/convnext-tiny-224"),
    *("facebook/convnextv2-tiny-1k-224", "facebook/deit-base-distilled-patch16-224", "facebook/dinov2-base"),
    *("facebook/dinov2-small-imagenet1k-1-layer", "facebook/levit-128S", "facebook/regnet-y-040"),
    *("google/efficientnet-b0", "google/mobilenet_v2_1.0_224", "google/siglip-base-patch16-224"),
    *("google/vit-base-patch16-224", "microsoft/beit-base-patch16-224", "microsoft/cvt-13"),
    *("microsoft/focalnet-tiny", "microsoft/resnet-50", "microsoft/swin-tiny-patch4-window7-224"),
    *("microsoft/swinv2-tiny-patch4-window8-256", "openai/clip-vit-base-patch32", "sail/poolformer_s12"),
)


def names() -> list[str]:
    """Examples, one or two a family: the hub has more than can be listed."""
    return list(_EXAMPLES)


@source("hf", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    labels: Sequence[str] | None = None,
) -> Model:
    """A model of transformers with its processor's preprocessing and its own class names.

    A model of pictures and texts (CLIP, SigLIP) scores how similar the picture is to each of ``labels``; without
    labels, and for a model without a classifier, the output is the embedding.

    Args:
        name: an id on the hub, such as "microsoft/resnet-50", or a folder.
        weights: as for ``load``.
        classes: as for ``load``.
        input_size: as for ``load``.
        options: keywords of the model's configuration, such as ``{"attention_probs_dropout_prob": 0}``.
        labels: the texts, where the model takes texts.
    """
    require("transformers", f"hf:{name}", "hf")
    reserved = [key for key in options if key in _RESERVED]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: load has weights=, classes= and labels= for that")
    offline = Path(name).is_dir() or not _hub_answers()
    with _quiet():
        config = _configuration(name, options, classes=classes, offline=offline)
        kind = _kind(config, classes, labels)
        net, sha256 = _model(name, config, kind, weights=weights, fresh_head=classes is not None, offline=offline)
        preprocess = preprocess_of(name, config, offline=offline)
        preprocess = preprocess if input_size is None else preprocess.at(input_size)
        resized = _is_resized(net, config, preprocess.input_size)
        if kind != "classifier":
            net = _embedding(net, kind, labels, name=name, resized=resized, weights=weights, offline=offline)
        elif resized:
            net.register_forward_pre_hook(_interpolate, with_kwargs=True)
    count = config.num_labels if kind == "classifier" else (len(labels or ()) if kind == "texts" else 0)
    return Model(
        f"hf:{name}",
        net,
        preprocess=preprocess,
        labels=labels_of(config) if kind == "classifier" else tuple(labels or ()),
        outcome=outcome_of(config, net),
        recipe=Recipe(f"hf:{name}", classes=count, options=dict(options), weights=str(weights), sha256=sha256),
    )


def _hub_answers() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers; what matters of them becomes an error."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _configuration(name: str, options: Mapping[str, Any], *, classes: int | None, offline: bool) -> Any:
    from transformers import AutoConfig

    keywords = dict(options) if classes is None else {"num_labels": classes, **options}
    try:
        config, unknown = AutoConfig.from_pretrained(
            name, return_unused_kwargs=True, local_files_only=offline, trust_remote_code=False, **keywords
        )
    except (OSError, ValueError) as error:
        raise _absent(name, error, offline=offline) from error
    if unknown:
        raise SettingError(f"{nearest(f'setting of {config.model_type}', next(iter(unknown)), config.to_dict())}")
    config.architectures = config.architectures or []  # transformers iterates over it
    if config.model_type == "timm_wrapper":
        raise ModelError(f"hf:{name} is a network of timm: load timm:{name.removeprefix('timm/')}")
    return config


def _absent(name: str, error: Exception, *, offline: bool) -> ModelError:
    if Path(name).is_dir():
        return ModelError(f"{name} is not a folder of transformers ({_first_line(error)}): save_pretrained writes one")
    if offline:
        return ModelError(
            f"hf:{name} is out of reach: the Hugging Face hub does not answer, its cache on this machine has no such "
            "model, and there is no such folder; bring the folder that save_pretrained wrote, and name it: hf:FOLDER"
        )
    return ModelError(f"hf:{name} cannot be had from the Hugging Face hub: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _kind(config: Any, classes: int | None, labels: Sequence[str] | None) -> Kind:
    """What the output is: scores of classes, similarities to texts, or an embedding."""
    from transformers import AutoModelForImageClassification as Classifier
    from transformers import AutoModelForZeroShotImageClassification as OfTexts

    written_as = config.architectures
    if any("ForImageClassification" in architecture for architecture in written_as):
        return "classifier"
    if type(config) in OfTexts._model_mapping and (labels or classes is None):
        return "texts"
    return "classifier" if type(config) in Classifier._model_mapping and (classes or not written_as) else "embedding"


def _model(
    name: str, config: Any, kind: Kind, *, weights: str | Path, fresh_head: bool, offline: bool
) -> tuple[nn.Module, str | None]:
    """The network with its weights, and the sha256 of the file that they came from."""
    transformers: Any = importlib.import_module("transformers")
    autos = {
        "classifier": transformers.AutoModelForImageClassification,
        "texts": transformers.AutoModelForZeroShotImageClassification,
        "embedding": transformers.AutoModel,
    }
    try:
        if weights != "default":
            net: nn.Module = autos[kind].from_config(config)
        else:
            net, found = autos[kind].from_pretrained(
                name,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=fresh_head,
                local_files_only=offline,
            )
            _refuse_gaps(name, net, found["missing_keys"], fresh_head=fresh_head)
    except (OSError, ValueError, RuntimeError) as error:
        if weights == "default" and isinstance(error, OSError):
            raise _absent(name, error, offline=offline) from error
        raise ModelError(f"transformers cannot build hf:{name}: {_first_line(error)}") from error
    if not isinstance(weights, Path):
        return net.float(), None
    if kind == "classifier":
        fill(net, read_weights(weights), origin=str(weights))
    return net.float(), file_sha256(weights)


def _refuse_gaps(name: str, net: nn.Module, missing: Iterable[str], *, fresh_head: bool) -> None:
    """Weights that are not in the file would be random; those of a head are, where a new one was asked for."""
    trunk = getattr(net, "base_model_prefix", "")
    gaps = sorted(key for key in missing if not (fresh_head and not key.startswith(f"{trunk}.")))
    if gaps:
        listed = ", ".join(gaps[:5]) + (" ..." if len(gaps) > 5 else "")
        raise ModelError(f"hf:{name} has no weights for {listed}: pass classes= for a new head, or another model")


def _embedding(
    net: Any,
    kind: Kind,
    labels: Sequence[str] | None,
    *,
    name: str,
    resized: bool,
    weights: str | Path,
    offline: bool,
) -> nn.Module:
    """A network without classes as one of embeddings, or of similarities to texts; without its text tower."""
    state = read_weights(weights) if isinstance(weights, Path) else None
    own = state is not None and not any(key.startswith("model.") for key in state)
    if state is not None and own:
        fill(net, state, origin=str(weights))
    made: nn.Module
    if kind == "texts" and labels:
        if not hasattr(net, "logit_scale"):
            raise ModelError(f"hf:{name} has no scale for similarities to texts; CLIP and SigLIP have")
        # Weights that a bundle wrote hold the embeddings of the texts.
        texts = text_embeddings(net, labels, name=name, offline=offline) if state is None or own else state["texts"]
        made = Similarities(net, texts, resized=resized)
    else:
        made = Embedding(net, resized=resized)
    if kind == "texts":
        net.text_model = None
    if state is not None and not own:
        fill(made, state, origin=str(weights))
    return made


def _is_resized(net: nn.Module, config: Any, size: tuple[int, int]) -> bool:
    """Whether the input has another size than a network's table of positions, which it can interpolate."""
    own = getattr(getattr(config, "vision_config", config), "image_size", None)
    own = (own, own) if isinstance(own, int) else tuple(own or size)
    see = getattr(net, "get_image_features", net.forward)
    return own != size and "interpolate_pos_encoding" in inspect.signature(see).parameters


def _interpolate(net: nn.Module, args: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, keywords | {"interpolate_pos_encoding": True}


def labels_of(config: Any) -> tuple[str, ...]:
    """Class names, unless they are the numbers that transformers makes up."""
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else tuple(names)


def outcome_of(config: Any, net: nn.Module) -> Outcome:
    """Return whether one class is right or any number of them, by the configuration."""
    if isinstance(net, Similarities):
        # SigLIP judges each text by itself, and has a bias for that; CLIP tells texts from one another.
        return "any" if hasattr(net.model, "logit_bias") else ("one" if len(net.texts) > 1 else "value")
    return _OUTCOMES.get(config.problem_type, "one")
