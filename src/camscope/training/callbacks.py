"""Callbacks that follow a training: its history, and the maps of a few images. Needs the extra ``train``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from PIL import Image

from camscope.explanation import explain
from camscope.files import write_atomically
from camscope.images import Picture
from camscope.models.model import Model
from camscope.progress import Progress
from camscope.render import Cell, sheet

HISTORY, MAPS = "history.csv", "maps"


class History(L.Callback):
    """Write ``history.csv``, one row per epoch, and report progress; the file is complete after an interruption too.

    Args:
        folder: folder that ``history.csv`` is written to.
        progress: called with "training", the number of steps done, and the total.
        say: called with one line per epoch.
    """

    def __init__(self, folder: Path, *, progress: Progress, say: Callable[[str], None]) -> None:
        self.path, self.progress, self.say = folder / HISTORY, progress, say
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Report progress."""
        self.progress("training", trainer.global_step, int(trainer.estimated_stepping_batches))

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        """Add the row of the epoch."""
        names = ("train_loss", "val_loss", "val_auc", "val_f1", "val_accuracy")
        row = {"epoch": float(trainer.current_epoch)}
        row |= {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
        row["rate"] = float(trainer.optimizers[0].param_groups[-1]["lr"])
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write()
            figures = ", ".join(f"{name.replace('_', ' ')} {row[name]:.3f}" for name in names[:3] if name in row)
            self.say(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {figures}")

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])

    def _write(self) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({**row, "epoch": int(row["epoch"])} for row in self.rows)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))


class LogMaps(L.Callback):
    """Draw the maps of a few fixed images after each epoch, to show how attention forms.

    Writes ``FOLDER/epoch_003.png``, and an image to each logger that takes images, such as TensorBoard's. It works with
    any LightningModule, together with its network.

    Args:
        model: model around the network that is being trained.
        pictures: images to explain, each with its class; None for the predicted class.
        folder: folder that the sheets are written to.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)".

    Example:
        >>> from camscope.models.loading import load
        >>> model = load("timm:resnet10t", weights="none", labels=["cat", "dog"])
        >>> pictures = [(Picture(np.zeros((32, 32, 3), np.float32)), "cat")]
        >>> trainer = L.Trainer(callbacks=[LogMaps(model, pictures, folder="maps")], logger=False)
    """

    def __init__(
        self,
        model: Model,
        pictures: Sequence[tuple[Picture, str | int | None]],
        *,
        folder: str | Path = MAPS,
        method: str = "gradcam",
    ) -> None:
        self.model, self.pictures, self.folder, self.method = model, list(pictures), Path(folder), method

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        """Draw the maps of the epoch."""
        if not trainer.is_global_zero or not self.pictures:
            return
        epoch = trainer.current_epoch
        cells = []
        for picture, label in self.pictures:
            e = explain(self.model, picture, target=label, method=self.method)
            if self.model.layer is None:
                # Choosing the layer takes two passes, and its name stays the same.
                self.model = replace(self.model, layer=e.layer)
            cells.append(Cell(e.overlay(), f"{e.short_label}, {e.certainty}"))
        image = sheet([cells], title=f"epoch {epoch + 1}: {self.method} at {self.model.layer}", cell_width=200)
        self._write(image, epoch)
        for board in (getattr(logger, "experiment", None) for logger in trainer.loggers):
            if board is not None and hasattr(board, "add_image"):
                board.add_image("maps", np.asarray(image), epoch, dataformats="HWC")

    def _write(self, image: Image.Image, epoch: int) -> None:
        path = self.folder / f"epoch_{epoch + 1:03d}.png"
        write_atomically(path, lambda file: image.save(file, "PNG"))
