"""Subjects whose truth is known, and models whose reliance is known: means of pixels."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from camscope.audit.samples import AuditSample
from camscope.cohort.case import Case
from camscope.cohort.regions import cell_shares, visible_shares
from camscope.images import Window

SIDE = 24


def box(top, left, height, width):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + height, left : left + width] = True
    return mask


REGIONS = {"mask:label": box(10, 10, 5, 5), "cue:token": box(1, 1, 4, 4), "border:0.25": ~box(6, 6, 12, 12)}


def make_subjects(patients=40, *, images=2, seed=0, carries=None):
    """A lesion (+1 on its box) where the label is, a token (+1 on its box) where the cue is."""
    draw = np.random.default_rng(seed)
    window = Window.whole((SIDE, SIDE))
    made = []
    for number in range(patients * images):
        truth = number // images % 2 == 0
        cue = bool(draw.random() < 0.5) if carries is None else carries(truth, draw)
        x = 0.2 * draw.standard_normal((1, SIDE, SIDE)).astype(np.float32)
        x[0][REGIONS["mask:label"]] += truth
        x[0][REGIONS["cue:token"]] += cue
        masks = {
            name: mask
            for name, mask in REGIONS.items()
            if (name != "mask:label" or truth) and (name != "cue:token" or cue)
        }
        case = Case(number, number + 2, "", "", f"P{number // images}", (), "", {"L": truth}, cues={"token": cue})
        declared = {name: mask for name, mask in masks.items() if name != "border:0.25"}
        shares = {name: cell_shares(mask, window, (6, 6)) for name, mask in masks.items()}
        seen = np.ones((SIDE, SIDE), bool)
        cells = visible_shares(window, (6, 6))
        made.append(
            AuditSample(case, truth, x, seen, masks=masks, declared=declared, shares=shares, visible_cells=cells)
        )
    return made


def mean_of(*regions, weights=None):
    """A model: the mean of the pixels in some regions, weighted."""

    def score(inputs):
        parts = [inputs[:, 0][:, REGIONS[name]].mean(1) for name in regions]
        return np.sum([w * part for w, part in zip(weights or [1.0] * len(parts), parts, strict=True)], 0).astype(float)

    return score


@pytest.fixture
def subjects():
    return make_subjects()


def rows_of(subjects, score):
    return pl.DataFrame(
        {
            "case": [s.case.number for s in subjects],
            "patient": [s.case.patient for s in subjects],
            "truth": [s.truth for s in subjects],
            "log_odds": score(np.stack([s.x for s in subjects])),
            "cue:token": [s.case.cues["token"] for s in subjects],
        }
    )
