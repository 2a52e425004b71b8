"""Lightning modules of a training: the loss, its penalties, the learning rate, the data. Needs the extra ``train``."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from camscope.models.classifier import classifier_of
from camscope.models.model import Model
from camscope.statistics.auc import auc
from camscope.trace.hooks import logits_of
from camscope.training.cue_groups import STEP, CueGroups, GroupLoss
from camscope.training.dataset import Dataset
from camscope.training.evaluate import answers_of, f1_counts, macro_f1
from camscope.training.pictures import Pictures
from camscope.training.right_reasons_loss import share_outside
from camscope.training.settings import TrainingSettings

_WARMUP = 0.1
_MOST_WEIGHT = 20.0
_STATISTICS = {"running_mean", "moving_mean"}
"""Buffers of batch norms, of PyTorch and of Keras."""
_BACKBONE = 0.1
"""Learning rate of a pretrained backbone, as a share of the head's."""


class Learner(L.LightningModule):
    """Train a network on labels.

    Args:
        model: model whose network is trained in place.
        settings: training settings.
        learnt: whether the backbone is pretrained.
        weights: (labels,) weights of the loss, from `label_weights`.
        layer: target layer of the maps in the loss; None for a loss without maps.
        groups: groups by label and cue, weighted by the loss in place of the labels; None for a loss without groups.
    """

    def __init__(
        self,
        model: Model,
        settings: TrainingSettings,
        *,
        learnt: bool,
        weights: Tensor,
        layer: str | None = None,
        groups: CueGroups | None = None,
    ) -> None:
        super().__init__()
        self.net, self.outcome, self.settings, self.layer = model.net, model.outcome, settings, layer
        self.learnt = learnt
        self.frozen = settings.frozen_epochs(learnt=learnt)
        self.backbone_share = _BACKBONE if learnt else 1.0
        self.rate = settings.rate
        self.heads = classifier_of(model.net, len(model.labels))
        self.weights: Tensor
        self.register_buffer("weights", weights, persistent=False)
        step = 0.0 if settings.group_dro is None else STEP
        self.group_loss = None if groups is None else GroupLoss(torch.from_numpy(groups.shares), step=step)
        self.figures = ValidationMetrics(one=model.outcome == "one")

    def on_train_epoch_start(self) -> None:
        """Set train mode, freeze or unfreeze the backbone, and set the random seed from the seed and the epoch alone.

        Pretrained batch norms keep their statistics: those of small batches would undo what was learnt.
        """
        torch.manual_seed(self.settings.seed * 100_003 + self.current_epoch)
        frozen = self.current_epoch < self.frozen
        self.net.train()
        for name, module in self.net.named_modules():
            fixed = frozen or (self.learnt and not _STATISTICS.isdisjoint(module._buffers))
            if fixed and not self._in_head(name):
                module.training = False
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(not frozen or self._in_head(name))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of a batch: cross-entropy, and the penalty on maps outside the masks."""
        x, truth, masks, groups = batch
        loss = self._loss(logits_of(self.net, x), truth, groups)
        if self.layer is not None:
            loss = loss + self.settings.reasons_weight * self._outside(x, truth, masks, layer=self.layer)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(x), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], _: int) -> None:
        """Log the loss and update the metrics on a batch of images, which are neither hidden in part nor augmented."""
        x, truth, _masks, groups = batch
        scores = logits_of(self.net, x)
        self.log("val_loss", self._loss(scores, truth, groups), on_epoch=True, batch_size=len(x), sync_dist=True)
        scores = scores.double()
        self.figures.update(scores.softmax(-1) if self.outcome == "one" else scores.sigmoid(), truth)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the epoch."""
        self.log_dict(self.figures.compute())
        self.figures.reset()

    def configure_optimizers(self) -> Any:
        """Return AdamW; its learning rate rises over the first tenth of the steps, then falls along a cosine."""
        parameters = list(self.net.named_parameters())
        groups = [
            {"params": [p for n, p in parameters if not self._in_head(n)], "lr": self.rate * self.backbone_share},
            {"params": [p for n, p in parameters if self._in_head(n)], "lr": self.rate},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=self.settings.decay)
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        warm = max(1, round(_WARMUP * total))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _in_head(self, name: str) -> bool:
        return any(name == head or name.startswith(f"{head}.") for head in self.heads)

    def _loss(self, scores: Tensor, truth: Tensor, groups: Tensor) -> Tensor:
        if self.group_loss is not None:
            if self.outcome == "one":
                losses = F.cross_entropy(scores, truth.argmax(1), reduction="none")[:, None]
            else:
                losses = F.binary_cross_entropy_with_logits(scores, truth.nan_to_num(0), reduction="none")
            loss: Tensor = self.group_loss(losses, groups)
            return loss
        if self.outcome == "one":
            return F.cross_entropy(scores, truth.argmax(1), weight=self.weights)
        mask = ~truth.isnan()
        losses = F.binary_cross_entropy_with_logits(
            scores, truth.nan_to_num(0), pos_weight=self.weights, reduction="none"
        )
        return (losses * mask).sum() / mask.sum().clamp_min(1)

    def _outside(self, x: Tensor, truth: Tensor, masks: Tensor, *, layer: str) -> Tensor:
        """Return the mean share of the maps outside the masks, over the images that have a mask and the label."""
        rows = masks.flatten(1).any(1) & (truth == 1).any(1)
        if not rows.any():
            return x.new_zeros(())
        targets = truth[rows].argmax(1).tolist()
        return share_outside(self.net, x[rows], masks=masks[rows], targets=targets, layer=layer).mean()


class ImageDataModule(L.LightningDataModule):
    """The images of each split in batches; each epoch has a new loader, whose order depends on seed and epoch alone."""

    def __init__(self, pictures: dict[str, Pictures], settings: TrainingSettings, *, workers: int) -> None:
        super().__init__()
        self.pictures, self.settings, self.workers = pictures, settings, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the training images in the order of this epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        pictures, size = self.pictures["train"], self.settings.batch_size
        pictures.epoch = epoch
        # A last batch of one image would have no variance for batch norm.
        last = len(pictures) > size
        # A list, since Lightning asks a loader for its order more than once.
        return self._loader(pictures, sampler=pictures.order(), drop_last=last)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the validation images."""
        return self._loader(self.pictures["val"])

    def _loader(self, pictures: Pictures, **options: Any) -> DataLoader[Any]:
        return DataLoader(pictures, batch_size=self.settings.batch_size, num_workers=self.workers, **options)


class ValidationMetrics(Metric):
    """Compute the AUC and F1, each the mean of the labels for which it is defined, and the accuracy of an epoch.

    Args:
        one: whether one class is right per image, or any number of labels.
    """

    full_state_update = False
    probabilities: list[Tensor]
    truth: list[Tensor]

    def __init__(self, *, one: bool) -> None:
        super().__init__()
        self.one = one
        for name in ("probabilities", "truth"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add a batch: (B, labels) probabilities, and truth as 1, 0 or NaN."""
        self.probabilities.append(probabilities)
        self.truth.append(truth)

    def compute(self) -> dict[str, Tensor]:
        """Return "val_auc", "val_f1" and "val_accuracy"; one that is not defined is left out."""
        p, truth = (dim_zero_cat(values).cpu().numpy() for values in (self.probabilities, self.truth))
        answers, known = answers_of(p, one=self.one), ~np.isnan(truth)
        aucs = np.array([auc(logit(column), true) for column, true in zip(p.T, truth.T, strict=True)])
        hits = (answers == (truth == 1)).all(1) if self.one else (answers == (truth == 1))[known]
        counts = f1_counts(answers, truth)
        values = {
            "val_auc": aucs[~np.isnan(aucs)].mean() if not np.isnan(aucs).all() else np.nan,
            "val_f1": macro_f1(counts, np.ones((1, len(counts))))[0],
            "val_accuracy": hits.mean() if hits.size else np.nan,
        }
        return {name: torch.tensor(float(value)) for name, value in values.items() if not np.isnan(value)}


def label_weights(dataset: Dataset) -> Tensor:
    """Compute weights of the loss that make rare labels count as much as common ones, from the training set.

    One of several classes: n / (classes n_k). Any number of labels: n_absent / n_present. Weights are limited to
    [1/20, 20].

    Returns:
        (labels,) for ``cross_entropy(weight=)`` or ``binary_cross_entropy_with_logits(pos_weight=)``.
    """
    truth = torch.tensor(dataset.truth(dataset.of("train")), dtype=torch.float32)
    present, absent = (truth == 1).sum(0), (truth == 0).sum(0)
    if dataset.outcome == "one":
        weights = len(truth) / (len(dataset.labels) * present.clamp_min(1))
    else:
        weights = absent.clamp_min(1) / present.clamp_min(1)
    return weights.float().clamp(1 / _MOST_WEIGHT, _MOST_WEIGHT)
