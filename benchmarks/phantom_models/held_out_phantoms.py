"""Patients whom no model was trained on, and what a model of the demo does with their images."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import roc_auc_score

from camscope.array_types import Bytes, Mask
from camscope.explanation import explain_all
from camscope.images.picture import Picture
from camscope.models.model import Model
from camscope.phantoms.anatomy import View
from camscope.phantoms.cohort import PhantomSpec, grey_bytes
from camscope.phantoms.findings import FINDINGS

STREAM, PATIENTS, PREVALENCE, SIDE = 103, 400, 0.35, 256
# A cell of the models' 8 x 8 maps, in pixels of these images.
CELL = SIDE // 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Images of patients whom no model was trained on.

    Attributes:
        cases: one image per patient, half of them AP, none with the token.
        plain: (N, 256, 256) images of the cases.
        marked: the same with the token; PA images unchanged.
        masks: for each case the (256, 256) mask of each of its findings.
        tokens: for each case the (256, 256) mask of the token in ``marked``; empty on PA images.
    """

    cases: tuple[PhantomSpec, ...]
    plain: Bytes = dataclasses.field(repr=False)
    marked: Bytes = dataclasses.field(repr=False)
    masks: tuple[dict[str, Mask], ...] = dataclasses.field(repr=False)
    tokens: npt.NDArray[np.bool_] = dataclasses.field(repr=False)

    @classmethod
    def make(cls, seed: int, *, patients: int = PATIENTS) -> HeldOut:
        """Draw the patients of a seed and make their images."""
        cases = _draw_cases(seed, patients)
        plain, marked, masks = [], [], []
        tokens = np.zeros((patients, SIDE, SIDE), dtype=bool)
        for case, token in zip(cases, tokens, strict=True):
            made = case.phantom((SIDE, SIDE))
            plain.append(grey_bytes(made))
            masks.append(made.masks)
            if case.view == "AP":
                made = dataclasses.replace(case, token=True).phantom((SIDE, SIDE))
                x0, y0, x1, y1 = made.token_box or (0, 0, 0, 0)
                token[y0:y1, x0:x1] = True
            marked.append(grey_bytes(made))
        return cls(cases=cases, plain=np.stack(plain), marked=np.stack(marked), masks=tuple(masks), tokens=tokens)

    def present(self, finding: str) -> npt.NDArray[np.bool_]:
        """Which cases have a finding, (N,)."""
        return np.array([finding in case.findings for case in self.cases])

    @property
    def bedside(self) -> npt.NDArray[np.bool_]:
        """Which cases are AP, (N,)."""
        return np.array([case.view == "AP" for case in self.cases])


def _draw_cases(seed: int, patients: int) -> tuple[PhantomSpec, ...]:
    draw = np.random.default_rng([seed, STREAM])
    first = 10**9 * (seed + 1) + 9 * 10**8
    cases = []
    for number in range(patients):
        view: View = "AP" if number % 2 else "PA"
        names = tuple(name for name in FINDINGS if draw.random() < PREVALENCE)
        cases.append(
            PhantomSpec(
                patient_id=f"E{number:05d}", seed=first + number, shot=0, view=view, findings=names, token=False
            )
        )
    return tuple(cases)


def scores(model: Model, pictures: Bytes) -> npt.NDArray[np.float64]:
    """Logits (N,) of images (N, H, W) as bytes, preprocessed as the model does with a file."""
    result = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            inputs = [
                model.preprocess(Picture((picture / np.float32(255))[..., None]))[0]
                for picture in pictures[start : start + 64]
            ]
            result.append(model.net(torch.stack(inputs))[:, 0].double().numpy())
    return np.concatenate(result)


def token_aucs(model: Model, tests: HeldOut, *, seed: int = 0) -> dict[str, float]:
    """AUC of a model with the token in four arrangements.

    "clean": no token on any image. "independent": on half of the AP images. "aligned": AP images alone, token
    with probability .95 where the finding is and .05 elsewhere. "anti_aligned": the other way round.
    """
    present, bedside = tests.present(model.labels[0]), tests.bedside
    plain, marked = scores(model, tests.plain), scores(model, tests.marked)
    luck = np.random.default_rng([seed, STREAM, 1]).random(len(present))
    aligned = np.where(luck < np.where(present, 0.95, 0.05), marked, plain)
    opposed = np.where(luck < np.where(present, 0.05, 0.95), marked, plain)
    return {
        "clean": _auc(present, plain),
        "independent": _auc(present, np.where(luck < 0.5, marked, plain)),
        "aligned": _auc(present[bedside], aligned[bedside]),
        "anti_aligned": _auc(present[bedside], opposed[bedside]),
    }


def _auc(present: npt.NDArray[np.bool_], logits: npt.NDArray[np.float64]) -> float:
    return round(float(roc_auc_score(present, logits)), 4)


def pointing(model: Model, tests: HeldOut) -> dict[str, float]:
    """Share of the images on which the peak of the Grad-CAM lies where it is said to.

    "finding": in the mask of the finding, on the AP and PA images that have it, without the token. "token": within
    ``CELL`` pixels of the token, on the AP images with the token, whether they have the finding or not: the token
    is smaller than a cell of the map. An empty map has no peak.

    Reference:
        Zhang et al. Top-Down Neural Attention by Excitation Backprop. ECCV 2016. arXiv:1608.00507 (the pointing game)
    """
    finding = model.labels[0]
    has = tests.present(finding)
    masks = np.stack([mask[finding] for mask in tests.masks if finding in mask])
    near = [distance_transform_edt(~token) <= CELL for token in tests.tokens[tests.bedside]]
    return {
        "finding": _peaks_inside(model, tests.plain[has], masks=masks),
        "token": _peaks_inside(model, tests.marked[tests.bedside], masks=np.stack(near)),
    }


def _peaks_inside(model: Model, pictures: Bytes, *, masks: npt.NDArray[np.bool_]) -> float:
    maps = (e.heatmap for e in explain_all(model, pictures, targets=0))
    hits = [bool(heat.any() and mask.flat[heat.argmax()]) for heat, mask in zip(maps, masks, strict=True)]
    return round(float(np.mean(hits)), 4)
