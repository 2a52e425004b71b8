"""Training loop by Lightning, from the last checkpoint or from the start. Needs the extra ``train``."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from camscope.errors import SettingError
from camscope.files import writing
from camscope.images import read
from camscope.models.layer_choice import default_layer
from camscope.models.model import Model
from camscope.progress import Progress
from camscope.training.callbacks import MAPS, History, LogMaps
from camscope.training.checkpoints import BEST, LAST, WholeFiles, resumable
from camscope.training.dataset import Dataset
from camscope.training.learner import ImageDataModule, Learner, label_weights
from camscope.training.pictures import Pictures
from camscope.training.settings import TrainingSettings
from camscope.training.stopping import Stopping

CHECKPOINTS, LOGS = "checkpoints", "logs"

_SHOWN = 4
_MOST_WORKERS = 8


class Where(NamedTuple):
    """Devices of a training: the name of a device, as on the command line, and the number of devices."""

    device: str
    devices: int


class Ended(NamedTuple):
    """Result of a training: the lowest validation loss, and whether this process leads those of several devices."""

    val_loss: float
    leads: bool


def fit_network(
    model: Model,
    dataset: Dataset,
    pictures: dict[str, Pictures],
    *,
    out: Path,
    settings: TrainingSettings,
    learnt: bool,
    where: Where,
    progress: Progress,
    say: Callable[[str], None],
) -> Ended:
    """Train a model's network, from the last checkpoint in ``out`` if there is one.

    Args:
        model: its network is trained in place, and ends with the weights of the lowest validation loss, on the CPU.
        dataset: the dataset with its splits.
        pictures: images by the name of their split.
        out: output folder of the training.
        settings: training settings.
        learnt: whether the backbone is pretrained.
        where: devices to train on.
        progress: called with the name of a step, the number done, and the total.
        say: called with each message for the user, one line each.

    Returns:
        The lowest validation loss, and whether this process leads those of several devices.
    """
    case = pictures["train"][0][0][None]
    map_model = dataclasses.replace(model, layer=model.layer or default_layer(model.net, case))
    layer = map_model.layer if settings.reasons is not None else None
    groups = pictures["train"].groups
    learner = Learner(model, settings, learnt=learnt, weights=label_weights(dataset), layer=layer, groups=groups)
    checkpoint = ModelCheckpoint(
        out / CHECKPOINTS,
        filename=Path(BEST).stem,
        monitor="val_loss",
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    stopping = Stopping()
    callbacks = [
        stopping,
        History(out, progress=progress, say=say),
        LogMaps(map_model, _shown(dataset), folder=out / MAPS),
        EarlyStopping("val_loss", patience=settings.patience, check_on_train_epoch_end=True),
        checkpoint,
    ]
    with _quiet():
        trainer = _trainer(settings, callbacks, out=out, where=where, frozen=learner.frozen > 0)
        content = resumable(checkpoint, say=say)
        if content is not None:
            say(f"going on after epoch {content['epoch'] + 1}")
        if content is not None and _has_stopped(content, settings):
            checkpoint.load_state_dict(content["callbacks"][checkpoint.state_key])
        else:
            all_kept = all(number in p.shelf.inputs for p in pictures.values() for number in p.numbers)
            # Exchanged properties are set in the file's own pixels.
            all_kept = all_kept and not pictures["train"].preparation.properties
            workers = 0 if all_kept else min(_MOST_WORKERS, os.cpu_count() or 1)
            last = out / CHECKPOINTS / LAST if content else None
            with writing(out), stopping:
                trainer.fit(learner, ImageDataModule(pictures, settings, workers=workers), ckpt_path=last)
    _take_best(learner, out / CHECKPOINTS / BEST)
    assert checkpoint.best_model_score is not None  # every epoch has a validation loss
    return Ended(float(checkpoint.best_model_score), trainer.is_global_zero)


def _trainer(
    settings: TrainingSettings, callbacks: list[L.Callback], *, out: Path, where: Where, frozen: bool
) -> L.Trainer:
    accelerator, devices = _where(*where)
    return L.Trainer(
        max_epochs=settings.epochs,
        accelerator=accelerator,
        devices=devices,
        # A frozen backbone gets no gradients.
        strategy="auto" if where.devices == 1 else "ddp_find_unused_parameters_true" if frozen else "ddp",
        precision=_precision(settings.precision, accelerator),  # type: ignore[arg-type]
        deterministic="warn",
        logger=TensorBoardLogger(out / LOGS, name="", version=""),
        callbacks=callbacks,
        plugins=[WholeFiles()],
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _has_stopped(content: dict[str, Any], settings: TrainingSettings) -> bool:
    """Return whether the training of a checkpoint was finished."""
    waited = [state["wait_count"] for name, state in content["callbacks"].items() if name.startswith("EarlyStopping")]
    return max(waited, default=0) >= settings.patience or content["epoch"] + 1 >= settings.epochs


def _take_best(learner: Learner, path: Path) -> None:
    """Load the weights of the epoch with the lowest validation loss."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    learner.load_state_dict(content["state_dict"], strict=False)
    learner.cpu().eval()
    for parameter in learner.parameters():
        parameter.requires_grad_(True)


def _where(device: str, devices: int) -> tuple[str, int | list[int]]:
    """Return Lightning's accelerator and devices for a device name."""
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps"):
        raise SettingError(f"device cannot be {device!r}; possible: auto, cpu, cuda, cuda:1, mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"device {device!r} cannot be used (there is no CUDA here); use cpu or auto")
    return ("gpu" if kind == "cuda" else kind), ([int(number)] if number else devices)


def _precision(precision: str, accelerator: str) -> str:
    if precision != "auto":
        return precision
    if accelerator != "gpu":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _shown(dataset: Dataset) -> list[tuple[Any, int]]:
    """Return a few validation images to draw after each epoch, one per label, each with its label."""
    numbers: dict[str, int] = {}
    cases = dataset.of("val")
    for number, label in enumerate(dataset.labels):
        for case in (e for e in cases if e.truth[label] and e.source not in numbers):
            numbers[case.source] = number
            break
    return [(read(source), label) for source, label in list(numbers.items())[:_SHOWN]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's advertisements and advice, and restore the settings that it changes in PyTorch."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    exact, only_warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.use_deterministic_algorithms(exact, warn_only=only_warn)
