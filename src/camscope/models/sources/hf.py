"""Image models of Hugging Face transformers, from its hub or from a folder that ``save_pretrained`` wrote."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from camscope.errors import ModelError, SettingError, first_line, nearest, require
from camscope.models.model import Model, Outcome, Recipe
from camscope.models.pretrained import reachable
from camscope.models.sources.hf_dense import Detector, Segmenter
from camscope.models.sources.hf_pictures import preprocess_of
from camscope.models.sources.hf_texts import Embedding, Similarities, text_embeddings
from camscope.models.sources.registry import source
from camscope.models.untrained import NEW_HEAD
from camscope.models.weight_names import ALL, KeyFilter
from camscope.models.weights import file_sha256, fill, read_weights

Task = Literal["classifier", "texts", "embedding", "boxes", "maps"]

# Part of the architecture's name in config.json -> task.
_TASKS: dict[str, Task] = {
    "ForImageClassification": "classifier",
    "ForObjectDetection": "boxes",
    "ForSemanticSegmentation": "maps",
    "ForUniversalSegmentation": "maps",
    "ForInstanceSegmentation": "maps",
}
_TRUNK = re.compile(r"Model(WithProjection)?$|^$")
_TAKEN = "image classifiers, embeddings, CLIP and SigLIP, object detectors and semantic segmentation"

# Settings of the loaders of transformers, and settings that `load` has arguments for.
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
    """Return examples, one or two per family; the hub has too many models to list."""
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
    keys: KeyFilter = ALL,
) -> Model:
    """Return a model of transformers with its processor's preprocessing and its own class names.

    The architecture in the model's configuration determines the task. A model of images and texts (CLIP, SigLIP)
    scores how similar the image is to each of ``labels``; without labels, and for a model without a classifier, the
    output is the embedding. Detectors return boxes and segmentation networks maps of scores, as torchvision's do.

    Args:
        name: an id on the hub, such as "microsoft/resnet-50", or a folder.
        weights: see ``load``.
        classes: see ``load``.
        input_size: see ``load``.
        options: keywords of the model's configuration, such as ``{"attention_probs_dropout_prob": 0}``.
        labels: the texts, if the model takes texts.
        keys: see ``fill``.
    """
    require("transformers", f"hf:{name}", "hf")
    reserved = [key for key in options if key in _RESERVED]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: weights=, classes= and labels= set it")
    offline = Path(name).is_dir() or not _hub_answers()
    with _quiet():
        config = _configuration(name, options, offline=offline)
        task = _task(name, config, classes, labels)
        if task in ("boxes", "maps"):
            _check_classes(name, config, classes, labels)
        elif classes is not None:
            config.num_labels = classes
        arguments: dict[str, Any] = {"weights": weights, "keys": keys, "offline": offline}
        net, facts = _model(name, config, task, fresh_head=classes is not None, **arguments)
        preprocess, assumed = preprocess_of(name, config, offline=offline, whole=task in ("boxes", "maps"))
        preprocess = preprocess if input_size is None else preprocess.at(input_size)
        resized = _is_resized(net, config, preprocess.input_size)
        if task in ("texts", "embedding"):
            net, facts = _embedding(net, task, labels, name=name, resized=resized, **arguments)
        elif resized:
            net.register_forward_pre_hook(_interpolate, with_kwargs=True)
        if task in ("boxes", "maps"):
            net = Detector(net, config.num_labels) if task == "boxes" else Segmenter(net)
    sha256 = file_sha256(weights) if isinstance(weights, Path) else None
    count = {"texts": len(labels or ()), "embedding": 0}.get(task, config.num_labels)
    return Model(
        f"hf:{name}",
        net,
        preprocess=preprocess,
        labels=tuple(labels or ()) if task in ("texts", "embedding") else labels_of(config, task),
        outcome="boxes" if task == "boxes" else outcome_of(config, net),
        recipe=Recipe(f"hf:{name}", classes=count, options=dict(options), weights=str(weights), sha256=sha256),
        facts={"assumed": assumed, **facts} if assumed else facts,
    )


def _hub_answers() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers; important ones become errors."""
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


def _configuration(name: str, options: Mapping[str, Any], *, offline: bool) -> Any:
    from transformers import AutoConfig

    try:
        config, unknown = AutoConfig.from_pretrained(
            name, return_unused_kwargs=True, local_files_only=offline, trust_remote_code=False, **options
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
    if "trust_remote_code" in str(error):
        return ModelError(f"hf:{name} needs code from the hub, which camscope never runs: build the network yourself")
    if Path(name).is_dir():
        return ModelError(f"{name} is not a folder of transformers ({first_line(error)}): save_pretrained writes one")
    if offline:
        return ModelError(
            f"hf:{name} is out of reach: the Hugging Face hub does not answer, its cache on this machine has no such "
            "model, and there is no such folder; copy a folder that save_pretrained wrote here, and use hf:FOLDER"
        )
    return ModelError(f"hf:{name} cannot be downloaded from the Hugging Face hub: {first_line(error)}")


def task_of(architecture: str) -> Task | None:
    """Return the task of an architecture by its name; None if camscope does not support it.

    >>> task_of("DetrForObjectDetection"), task_of("ViTModel")
    ('boxes', None)
    """
    return next((task for part, task in _TASKS.items() if part in architecture), None)


def _task(name: str, config: Any, classes: int | None, labels: Sequence[str] | None) -> Task:
    """Return the task of a model, by the architecture in its configuration.

    Raises:
        ModelError: an unsupported task.
        SettingError: classes for a model that cannot have a classifier.
    """
    from transformers import AutoModelForImageClassification as Classifier
    from transformers import AutoModelForZeroShotImageClassification as OfTexts

    architecture = next(iter(config.architectures), "")
    if (stated := task_of(architecture)) is not None:
        return stated
    can_classify = type(config) in Classifier._model_mapping
    is_trunk = _TRUNK.search(architecture) is not None
    if is_trunk and type(config) in OfTexts._model_mapping and (labels or classes is None):
        return "texts"
    if can_classify and (classes is not None or not architecture):
        return "classifier"
    if not is_trunk:
        purpose = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", architecture.rpartition("For")[2]).lower()
        hint = "; classes= makes a classifier with a new head of it" if can_classify else ""
        raise ModelError(f"hf:{name} ({architecture}) is for {purpose}, and camscope takes {_TAKEN}{hint}")
    if classes is not None:
        raise SettingError(f"transformers has no classifier on {config.model_type}: leave classes and labels out")
    return "embedding"


def _check_classes(name: str, config: Any, classes: int | None, labels: Sequence[str] | None) -> None:
    """Check that classes and labels are those of a detector or segmentation network, which gets no new head.

    Raises:
        SettingError: they are not.
    """
    count = config.num_labels
    is_pair = (len(labels or ()), count) == (2, 1)
    if count == 1 and len(labels or ()) == 1:
        raise SettingError(f"hf:{name} has one class and its background: give two labels, the background first")
    if classes not in (None, count) and not is_pair:
        raise SettingError(f"hf:{name} has {count} classes, and only classifiers get a new head: got {classes}")


def _model(
    name: str, config: Any, task: Task, *, weights: str | Path, keys: KeyFilter, fresh_head: bool, offline: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with its weights, and the facts of ``fill``; `_embedding` fills those without classes."""
    maker = _maker(name, config, task)
    facts: dict[str, Any] = {}
    try:
        if weights != "default":
            config.use_pretrained_backbone = False
            net: nn.Module = maker.from_config(config) if hasattr(maker, "from_config") else maker(config)
        else:
            extras = {"trust_remote_code": False} if hasattr(maker, "from_config") else {}
            net, loading_info = maker.from_pretrained(
                name,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=fresh_head and task == "classifier",
                local_files_only=offline,
                **extras,
            )
            fresh_head = fresh_head and task == "classifier"
            if _refuse_gaps(name, net, loading_info, task=task, fresh_head=fresh_head):
                facts[NEW_HEAD] = True
    except (OSError, ValueError, RuntimeError) as error:
        if weights == "default" and isinstance(error, OSError):
            raise _absent(name, error, offline=offline) from error
        raise ModelError(f"transformers cannot build hf:{name}: {first_line(error)}") from error
    if isinstance(weights, Path) and task not in ("texts", "embedding"):
        facts = fill(net, read_weights(weights), origin=str(weights), keys=keys)
    return net.float(), facts


def _maker(name: str, config: Any, task: Task) -> Any:
    """Return the class of transformers that makes the network.

    Raises:
        ModelError: transformers has no such class, or its networks take more than images.
    """
    transformers: Any = importlib.import_module("transformers")
    if task == "classifier":
        return transformers.AutoModelForImageClassification
    if task == "texts":
        return transformers.AutoModelForZeroShotImageClassification
    architecture = next(iter(config.architectures), "AutoModel")
    maker = getattr(transformers, architecture, None)
    if maker is None:
        raise ModelError(f"hf:{name}: transformers has no {architecture}: update it, or make the network yourself")
    if task != "embedding":
        parameters = inspect.signature(maker.forward).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if inputs := [key for key in needed if key not in ("self", "pixel_values")]:
            raise ModelError(
                f"hf:{name} ({architecture}) also takes {', '.join(inputs)}, but camscope passes only images"
            )
    return maker


def _refuse_gaps(name: str, net: nn.Module, loading_info: Mapping[str, Any], *, task: Task, fresh_head: bool) -> bool:
    """Raise an error if weights are missing or have another shape; return whether a new classifier lacks some."""
    trunk = getattr(net, "base_model_prefix", "")
    keys = {
        key if isinstance(key, str) else key[0]
        for kind in ("missing_keys", "mismatched_keys")
        for key in loading_info[kind]
    }
    of_head = {key for key in keys if trunk and not key.startswith(f"{trunk}.")} if fresh_head else set()
    if not trunk and fresh_head:
        of_head = {key for key in keys if key.partition(".")[0] in ("classifier", "head")}
    if gaps := sorted(keys - of_head):
        examples = ", ".join(gaps[:5]) + (" ..." if len(gaps) > 5 else "")
        advice = (
            "pass classes= for a new head, or another model"
            if task in ("classifier", "embedding")
            else "name another model"
        )
        raise ModelError(f"hf:{name} has no weights for {examples}: {advice}")
    return bool(of_head)


def _embedding(
    net: Any,
    task: Task,
    labels: Sequence[str] | None,
    *,
    name: str,
    resized: bool,
    weights: str | Path,
    keys: KeyFilter,
    offline: bool,
) -> tuple[nn.Module, dict[str, str]]:
    """Return a network of embeddings, or of similarities to texts, without its text tower; and facts of ``fill``."""
    state = read_weights(weights) if isinstance(weights, Path) else None
    of_texts = task == "texts" and bool(labels)
    # Weights that a bundle holds fill the wrapper: they have the texts' embeddings, or names that begin with "model.".
    is_of_bundle = state is not None and (
        "texts" in state if of_texts else any(key.startswith("model.") for key in state)
    )
    net_state, wrapper_state = (None, state) if is_of_bundle else (state, None)
    facts: dict[str, str] = {}
    if net_state is not None:
        facts = fill(net, net_state, origin=str(weights), keys=keys)
    wrapper: nn.Module
    if of_texts:
        if not hasattr(net, "logit_scale"):
            raise ModelError(f"hf:{name} has no scale for similarities to texts; CLIP and SigLIP have")
        texts = (
            text_embeddings(net, labels or (), name=name, offline=offline)
            if wrapper_state is None
            else wrapper_state["texts"]
        )
        wrapper = Similarities(net, texts, resized=resized)
    else:
        wrapper = Embedding(net, resized=resized)
    if task == "texts":
        net.text_model = None
    if wrapper_state is not None:
        facts = fill(wrapper, wrapper_state, origin=str(weights), keys=keys)
    return wrapper, facts


def _is_resized(net: nn.Module, config: Any, size: tuple[int, int]) -> bool:
    """Return whether the input size differs from the position table, which the network can interpolate."""
    table_size = getattr(getattr(config, "vision_config", config), "image_size", None)
    table_size = (table_size, table_size) if isinstance(table_size, int) else tuple(table_size or size)
    see = getattr(net, "get_image_features", net.forward)
    return table_size != size and "interpolate_pos_encoding" in inspect.signature(see).parameters


def _interpolate(net: nn.Module, args: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, keywords | {"interpolate_pos_encoding": True}


def labels_of(config: Any, task: Task = "classifier") -> tuple[str, ...]:
    """Return the class names, unless they are generated numbers; for one map also the background."""
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    if task == "maps" and len(names) == 1:
        return ("background", names[0])
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else tuple(names)


def outcome_of(config: Any, net: nn.Module) -> Outcome:
    """Return the outcome by the configuration: one class, any number of classes, or a value."""
    if isinstance(net, Similarities):
        # SigLIP scores each text separately, with a bias; CLIP compares the texts.
        return "any" if hasattr(net.model, "logit_bias") else ("one" if len(net.texts) > 1 else "value")
    return _OUTCOMES.get(config.problem_type, "one")
