"""Groups of images by label and cue, and a loss that weights them: balanced, or by group DRO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camscope.array_types import Floats
from camscope.errors import SettingError
from camscope.training.dataset import Dataset

STEP = 0.01
"""Step size of group DRO per batch, that of the paper."""

_SHOWN = 3


@dataclass(frozen=True)
class CueGroups:
    """Groups of the images of a dataset: every combination of a label's value and a value of the cue.

    Attributes:
        members: (cases, heads) group of each image per label, -1 if unknown. Where one of several classes is right,
            there is one head, and the class is the value.
        shares: (heads, groups) share of each group in the training images, above 0.
        counts: name of each group -> number of its training images.
    """

    members: npt.NDArray[np.int64]
    shares: Floats
    counts: dict[str, int]

    @classmethod
    def of(cls, dataset: Dataset, cue: str) -> CueGroups:
        """Group the images of a dataset that was split.

        Args:
            dataset: read with this cue.
            cue: name of the cue.

        Raises:
            SettingError: an image for training or validation without a value of the cue, or a combination of a label
                and a value of the cue without a training image.
        """
        cases = [case for case in dataset.usable if case.split in ("train", "val")]
        blank = [case.image for case in cases if not case.strata.get(cue)]
        if blank:
            shown = ", ".join(blank[:_SHOWN]) + (", ..." if len(blank) > _SHOWN else "")
            raise SettingError(f"the cue {cue!r} of {len(blank)} images is unknown ({shown}): give each image a value")
        values = sorted({case.strata[cue] for case in cases})
        truth = dataset.truth(dataset.cases)
        single = dataset.outcome == "one"
        classes = truth.argmax(1)[:, None] if single else truth
        known = {value: k for k, value in enumerate(values)}
        place = np.array([known.get(case.strata.get(cue, ""), -1) for case in dataset.cases])[:, None]
        defined = ~np.isnan(classes) & (place >= 0)
        members = np.where(defined, np.nan_to_num(classes) * len(values) + place, -1).astype(np.int64)
        trained = members[[not case.problem and case.split == "train" for case in dataset.cases]]
        size = (len(dataset.labels) if single else 2) * len(values)
        table = np.stack([np.bincount(column[column >= 0], minlength=size) for column in trained.T])
        names = [
            f"{label} {cue} = {value}"
            for label in (dataset.labels if single else _states(dataset.labels))
            for value in values
        ]
        counts = dict(zip(names, table.ravel().tolist(), strict=True))
        empty = next((name for name, count in counts.items() if not count), None)
        if empty is not None:
            raise SettingError(
                f"no training image has {empty}: weighting by {cue!r} needs an image of every combination of label and "
                f"cue, so use --exchange or more data"
            )
        return cls(members, table / len(trained), counts)


def _states(labels: tuple[str, ...]) -> list[str]:
    return [f"{label} {state}," for label in labels for state in ("absent", "present")]


class GroupLoss(nn.Module):
    """Compute a loss in which groups have weights of their own, and not those of their numbers of images.

    The loss of a label is sum_g q_g L_g, where L_g is the mean loss of group g, estimated from a batch by the sum over
    its images in g, divided by the size of the batch and by the share of g in the training set. Balanced: q_g is the
    same for all groups. Group DRO: after each batch q_g is multiplied by exp(step L_g), and q is scaled to a sum of 1,
    so that the group with the highest loss counts most. In eval mode the loss is always balanced.

    Args:
        shares: (heads, groups) share of each group in the training set.
        step: step size of group DRO; 0 for balanced.

    Source:
        Sagawa, Koh, Hashimoto, Liang. Distributionally Robust Neural Networks for Group Shifts. ICLR 2020.
        arXiv:1911.08731, algorithm 1

    Examples:
        >>> loss = GroupLoss(torch.tensor([[0.75, 0.25]]))
        >>> losses, groups = torch.tensor([[1.0], [1.0], [1.0], [5.0]]), torch.tensor([[0], [0], [0], [1]])
        >>> loss(losses, groups).item()  # the mean of 1 and 5
        3.0
    """

    def __init__(self, shares: Tensor, *, step: float = 0.0) -> None:
        super().__init__()
        self.step = step
        self.shares: Tensor
        self.weights: Tensor
        self.register_buffer("shares", shares.float(), persistent=False)
        # In the checkpoint, so that a resumed training goes on with the same weights.
        self.register_buffer("weights", torch.full_like(shares, 1 / shares.shape[1], dtype=torch.float32))

    def forward(self, losses: Tensor, groups: Tensor) -> Tensor:
        """Return the weighted loss of a batch; in train mode, group DRO then updates the weights.

        Args:
            losses: (B, heads) loss of each image per head.
            groups: (B, heads) its group; -1 if unknown, which has no weight.
        """
        count = self.shares.shape[1]
        members = F.one_hot(groups.clamp_min(0), count) * (groups >= 0)[..., None]
        means = (losses[..., None] * members).sum(0) / len(losses) / self.shares
        if not self.training:
            return means.mean()
        loss = (self.weights * means).sum(1).mean()
        if self.step:
            raised = self.weights * torch.exp(self.step * means.detach())
            self.weights = raised / raised.sum(1, keepdim=True)
        return loss
