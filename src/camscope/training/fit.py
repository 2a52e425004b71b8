"""Training from labelled images to an evaluated model: `train`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from camscope.errors import SettingError, require
from camscope.explanation.result import versions
from camscope.files import claim, write_atomically
from camscope.models.device import on_device
from camscope.models.model import Model
from camscope.models.sources.keras_net import KerasNet
from camscope.progress import Progress
from camscope.training.cue_groups import CueGroups
from camscope.training.dataset import SPLITS, UNKNOWN, Dataset
from camscope.training.evaluate import count_patients, predict
from camscope.training.init_model import Start
from camscope.training.pictures import Pictures, Preparation, read_all
from camscope.training.report import report
from camscope.training.samples import write_samples
from camscope.training.settings import TrainingSettings
from camscope.training.splits import FILE, conflicts, split, write_split

RECORD, KERAS = "training.json", "model.keras"


def train(
    dataset: Dataset,
    begun: Start,
    *,
    out: str | Path,
    settings: TrainingSettings | None = None,
    device: str = "auto",
    devices: int = 1,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Model, Dataset]:
    """Train a model, evaluate it on its test set, and write it as a bundle.

    Repeat the same call to resume a training that was stopped. It resumes after the last complete epoch, and ends with
    the same weights as an uninterrupted training.

    Args:
        dataset: labelled images, from `read_dataset`.
        begun: initial model, from `start`; its network is trained in place.
        out: output folder; gets the bundle, and the files that docs/train.md lists.
        settings: training settings; None for the defaults.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto".
        devices: number of devices.
        progress: called with the name of a step, the number done, and the total.
        say: called with each message for the user, one line each.

    Returns:
        The model with the weights of the lowest validation loss, in eval mode on the CPU, with the metrics of the test
        set in ``facts["test"]``; and the dataset with its splits, in which unusable images have their problem.

    Raises:
        MissingExtraError: the extra ``train`` is not installed.
        SettingError: settings that do not fit the data, splits that leak, or a folder of another training.

    Example:
        >>> from camscope.training.dataset import read_dataset
        >>> from camscope.training.init_model import start
        >>> data = read_dataset("xrays")  # doctest: +SKIP
        >>> model, data = train(data, start("timm:densenet121", data), out="run")  # doctest: +SKIP
    """
    for package in ("lightning", "torchmetrics", "tensorboard"):
        require(package, "training", "train")
    from camscope.training.loop import Where, fit_network

    settings, out, model = settings or TrainingSettings(), Path(out), begun.model
    dataset, pictures = _read_and_split(dataset, model, settings, progress=progress)
    for text in (*_unused(dataset), *conflicts(dataset)):
        say(text)
    identity = _identity(dataset, begun, settings)
    _same_training(out, identity)
    write_split(dataset, out)
    write_samples(dataset, pictures["train"], out, batch_size=settings.batch_size)
    options: dict[str, Any] = {
        "learnt": begun.learnt,
        "where": Where(device, devices),
        "progress": progress,
        "say": say,
    }
    result = fit_network(model, dataset, pictures, out=out, settings=settings, **options)
    groups = pictures["train"].groups
    facts = {"training": identity | _facts(dataset, out) | {"lowest_val_loss": result.val_loss}}
    facts["training"] |= {} if groups is None else {"groups": groups.counts}
    trained_model = dataclasses.replace(model, facts=facts)
    if result.leads:
        on_device(trained_model, device)
        predictions = predict(trained_model, dataset.of("test"), batch_size=settings.batch_size, progress=progress)
        facts["test"] = report(predictions, out, dataset=dataset, seed=settings.seed, progress=progress)
        _write(trained_model, out)
    return trained_model, dataset


def _write(model: Model, out: Path) -> None:
    """Write a model as a bundle, and a network of Keras as a .keras file too."""
    model.net.cpu()
    model.save(out)
    if isinstance(model.net, KerasNet):
        content = model.net.keras_file()
        write_atomically(out / KERAS, lambda file: file.write(content))


def _read_and_split(
    dataset: Dataset, model: Model, settings: TrainingSettings, *, progress: Progress
) -> tuple[Dataset, dict[str, Pictures]]:
    """Return the dataset, read and split, and the images of each split."""
    _check_reasons(dataset, settings)
    preparation = Preparation(model.preprocess, dataset.masks, settings.hide, settings.reasons, settings.exchange)
    dataset, shelf = read_all(dataset, preparation, progress=progress)
    dataset = split(dataset, fractions=settings.fractions, seed=settings.seed)
    options: dict[str, Any] = {"preparation": preparation, "shelf": shelf, "flip": settings.flip, "seed": settings.seed}
    options["groups"] = None if settings.cue is None else CueGroups.of(dataset, settings.cue)
    pictures = {name: Pictures(dataset, name, varied=name == "train", **options) for name in SPLITS}
    for spec, members in zip(preparation.regions, pictures["train"].having, strict=True):
        if not members:
            raise SettingError(f"no training image has the region {spec!r}, so that it cannot be hidden or exchanged")
    return dataset, pictures


def _check_reasons(dataset: Dataset, settings: TrainingSettings) -> None:
    if settings.reasons is not None and dataset.outcome == "any" and len(dataset.labels) > 1:
        raise SettingError(
            f"the mask {settings.reasons!r} belongs to one label, and {len(dataset.labels)} are trained: "
            f"give one --label, or --each for a model each"
        )


def _unused(dataset: Dataset) -> Iterator[str]:
    yield from (f"not used: {name}: {problem}" for name, problem in dataset.problems.items())
    if unlabelled := sum(case.problem == UNKNOWN for case in dataset.cases):
        yield f"{unlabelled} images are not used, since their label is unknown"


def _identity(dataset: Dataset, begun: Start, settings: TrainingSettings) -> dict[str, Any]:
    """Return what defines a training, as JSON: two trainings with the same values are the same."""
    recipe = begun.model.recipe
    rows: list[tuple[Any, ...]] = [(e.image, e.sha256, e.patient, e.split, repr(e.truth)) for e in dataset.usable]
    if settings.cue is not None:
        rows = [(*row, e.strata.get(settings.cue)) for row, e in zip(rows, dataset.usable, strict=True)]
    return {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "network": None if recipe is None else recipe.spec,
        "preprocess": begun.model.preprocess.to_dict(),
        "start": begun.origin,
        "start_sha256": begun.model.digest,
        "labels": list(dataset.labels),
        "outcome": dataset.outcome,
        "data_sha256": hashlib.sha256(repr(rows).encode()).hexdigest(),
    }


def _same_training(out: Path, identity: dict[str, Any]) -> None:
    """Write the record of the training; raise an error if the folder holds another training."""
    claim(out, "a training", record=(RECORD, "data_sha256"))
    path = out / RECORD
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        record = content if isinstance(content, dict) else {}
        changes = [key for key in identity if record.get(key) != identity[key]]
        if "settings" in changes and isinstance(record.get("settings"), dict):
            old, new = record["settings"], identity["settings"]
            # Settings that only one of the two versions of camscope has count as well.
            changed_settings = [key for key in new | old if old.get(key) != new.get(key)]
            changes += [f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed_settings]
            changes.remove("settings")
        if changes:
            raise SettingError(f"{out} holds another training ({', '.join(changes)}): give another --out, or remove it")
    text = json.dumps(identity, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _facts(dataset: Dataset, out: Path) -> dict[str, Any]:
    """Return the facts of the training that the bundle records in addition."""
    splits = {}
    for name in SPLITS:
        cases = dataset.of(name)
        splits[name] = {
            "pictures": len(cases),
            "patients": count_patients(cases),
            "present": {label: sum(e.truth[label] is True for e in cases) for label in dataset.labels},
        }
    packages = ("lightning", "torchmetrics")
    return {
        "splits": splits,
        "split_sha256": hashlib.sha256((out / FILE).read_bytes()).hexdigest(),
        "versions": versions() | {package: importlib.metadata.version(package) for package in packages},
    }
