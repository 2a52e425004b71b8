"""Estimate the work of an audit before it is run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from camscope.audit.label import EXCHANGED, SEEDS
from camscope.audit.reliance_map import CELLS
from camscope.audit.samples import Array, is_drawn
from camscope.cohort.case import Case
from camscope.cohort.fill_ins import FILL_INS
from camscope.errors import CamscopeError
from camscope.images import Picture, read
from camscope.models.device import device_of, on_device
from camscope.models.model import Model
from camscope.study.study import Study

_TRIED = 8
_PER_PROPERTY = 4


@dataclass(frozen=True)
class AuditPlan:
    """The work of an audit.

    Attributes:
        forwards: largest number of inputs that pass through the models; fewer if images lack regions.
        seconds: estimated time of that many on this device; None if no image can be read.
    """

    forwards: int
    seconds: float | None


def plan_audit(study: Study, *, device: str = "auto") -> AuditPlan:
    """Count the inputs of an audit, and measure the time of an edit and of a forward pass.

    Args:
        study: a study with a section audit.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
    """
    section = study.file.audit
    assert section is not None
    regions, fill_ins, cues = len(section.regions), len(section.fill_ins), len(study.file.cohort.cues)
    fixed = sum(not is_drawn(name) for name in section.regions)
    per_case = 2 + regions * (2 * fill_ins + 3) + fixed * 2 * fill_ins * (2 + cues) + SEEDS
    per_patient = _PER_PROPERTY * len(section.properties) + (2 * CELLS**2 if section.reliance_map else 0)
    cases = [case for case in study.cohort.cases() if "" not in case.problems]
    picture = _first(cases)
    forwards, seconds = 0, 0.0
    for label in study.file.labels:
        known = [case for case in cases if case.truth[label] is not None]
        patients = {case.patient or case.number for case in known}
        filled = min(len(known), section.cases) * regions * 2 * fill_ins
        count = min(len(known), section.cases) * per_case + min(len(patients), EXCHANGED) * per_patient
        forwards += count
        if picture is not None:
            model, _ = study.model(label)
            on_device(model, device)
            x = model.preprocess(picture)[0].numpy()
            seconds += filled * _filling(x, section.fill_ins) + count * _forward(model, x)
    return AuditPlan(forwards, None if picture is None else seconds)


def _first(cases: Sequence[Case]) -> Picture | None:
    """Return the first image that can be read."""
    for case in cases:
        with contextlib.suppress(CamscopeError):
            return read(case.source)
    return None


def _filling(x: Array, fill_ins: Sequence[str]) -> float:
    """Return the time of filling in a tenth of an input."""
    mask = np.zeros(x.shape[1:], bool)
    mask[: max(1, x.shape[1] // 10)] = True
    start = time.perf_counter()
    for fill in fill_ins:
        FILL_INS[fill](x, mask, donor=x, mean=x, seed=0, visible=np.ones_like(mask))
    return (time.perf_counter() - start) / len(fill_ins)


def _forward(model: Model, x: Array) -> float:
    """Return the time of an input in a forward pass."""
    inputs = torch.from_numpy(x)[None].repeat(_TRIED, 1, 1, 1).to(device_of(model))
    with torch.no_grad():
        for _ in range(2):  # the first pass warms up
            start = time.perf_counter()
            model.net(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize(inputs.device)
    return (time.perf_counter() - start) / _TRIED
