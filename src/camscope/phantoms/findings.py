"""Draw five findings: their change of the attenuation, and their masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camscope.array_types import Mask
from camscope.phantoms.anatomy import (
    FINDING_STREAM,
    Chest,
    Patient,
    Pose,
    Side,
    draws,
    lateral_edge,
    medial_edge,
)
from camscope.phantoms.shapes import Array, Frame, cloud, curve, dome, smoothstep, splat
from camscope.phantoms.tissue import LUNG, SOFT

FINDINGS = ("Effusion", "Cardiomegaly", "Pneumothorax", "Consolidation", "Nodule")


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One finding in one image.

    Attributes:
        density: (H, W) change of the line integral of attenuation.
        bare: (H, W) in [0, 1], lost share of the lung's vessels.
        mask: (H, W) mask of the finding.
    """

    density: Array
    bare: Array
    mask: Mask


def severity(patient: Patient, finding: str) -> float:
    """Return the severity of a patient's finding, from 0 (small, but visible) to 1.

    >>> 0 <= severity(Patient.of(1), "Nodule") <= 1
    True
    """
    return float(_draws(patient, finding).random())


def affected_sides(patient: Patient, finding: str) -> tuple[Side, ...]:
    """Return the lungs of a patient that a finding affects; () for the heart."""
    if finding == "Cardiomegaly":
        return ()
    draw = _draws(patient, finding)
    draw.random()
    first: Side = "right" if draw.random() < 0.5 else "left"
    second: Side = "left" if first == "right" else "right"
    bilateral = finding in ("Effusion", "Consolidation") and draw.random() < 0.25
    return (first, second) if bilateral else (first,)


def heart_ratio(patient: Patient, findings: tuple[str, ...]) -> float:
    """Return the width of the heart over the inner width of the chest, in a PA image."""
    if "Cardiomegaly" not in findings:
        return patient.heart
    return 0.57 + 0.075 * severity(patient, "Cardiomegaly")


def lesion(finding: str, patient: Patient, *, pose: Pose, chest: Chest) -> Lesion:
    """Draw a finding into a chest; an enlarged heart is drawn with the chest, not here."""
    shape = chest.air.shape
    if finding == "Cardiomegaly":
        return Lesion(density=np.zeros(shape), bare=np.zeros(shape), mask=chest.heart)
    density, bare, mask = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    grade = severity(patient, finding)
    for number, side in enumerate(affected_sides(patient, finding)):
        part = _DRAWN[finding](patient, pose, chest=chest, side=side, grade=grade * 0.75**number)
        density, bare, mask = density + part.density, np.maximum(bare, part.bare), mask | part.mask
    return Lesion(density=density, bare=bare, mask=mask)


def _draws(patient: Patient, finding: str, *path: int) -> np.random.Generator:
    return draws(patient.seed, FINDING_STREAM, FINDINGS.index(finding), *path)


def _on_side(chest: Chest, side: Side) -> Mask:
    """Return the half of the chest in which there is any air on that side."""
    result: Mask = (chest.frame.x > 0) if side == "left" else (chest.frame.x < 0)
    return result


def _effusion(patient: Patient, pose: Pose, *, chest: Chest, side: Side, grade: float) -> Lesion:
    """Draw fluid at the base: it blunts the angle, hides the dome, and rises along the wall."""
    angle = patient.length - 0.45 * pose.breath
    dome_top = patient.domes[0 if side == "right" else 1]
    high = 0.65 * dome_top + 1.4 + 6.5 * grade
    level = angle - high * (0.62 + 0.5 * np.clip(chest.outer, 0, 1) ** 4)
    haze = 3.6 if pose.view == "AP" else 1.8
    filled = smoothstep(chest.frame.y - level, (-0.25 * haze, haze)) * _on_side(chest, side)
    density = 0.92 * filled * chest.air * (SOFT - LUNG)
    return Lesion(density=density, bare=filled, mask=(density > 0.3) & (chest.under < 2.2))


def _pneumothorax(patient: Patient, pose: Pose, *, chest: Chest, side: Side, grade: float) -> Lesion:
    """Draw air between lung and wall: a thin edge, with no vessels and less density beyond it."""
    frame = chest.frame
    sink, gap = 1.6 + 3.4 * grade, 1.1 + 2.4 * grade
    upper = smoothstep(frame.y, (0.95 * patient.length, 0.25 * patient.length))
    edge = lateral_edge(patient, frame.y - sink * upper) - gap * upper - 0.12
    edge = np.where(frame.y < sink * 0.9 * upper, -1.0, edge)
    beyond = np.abs(frame.x) - edge
    region = _on_side(chest, side) & (chest.cavity > 0) & (chest.air > 0)
    outside = smoothstep(beyond, (-0.06, 0.06)) * region
    line = np.exp(-((beyond / 0.11) ** 2)) * 0.10 * region * smoothstep(chest.air, (0.5, 3.0))
    inside = smoothstep(beyond, (0.0, -0.5)) * region
    density = -0.62 * LUNG * chest.air * outside + line + 0.006 * grade * chest.air * inside
    return Lesion(density=density, bare=outside, mask=(outside > 0.5) & chest.side(side))


def _spot(patient: Patient, pose: Pose, *, frame: Frame, side: Side, place: tuple[float, float]) -> tuple[float, float]:
    """Return a point of a lung from relative coordinates: across (0 medial, 1 lateral), down (0 top, 1 diaphragm)."""
    across, down = place
    sign = -1 if side == "right" else 1
    y = down * (patient.length - patient.domes[0 if side == "right" else 1] - pose.breath)
    level = np.array(y)
    inner = float(medial_edge(patient, level, side=side))
    if side == "left":
        inner += 3.5 * max(down - 0.55, 0.0) / 0.45
    outer = float(lateral_edge(patient, level))
    return sign * (inner + across * (outer - inner)), y


def _consolidation(patient: Patient, pose: Pose, *, chest: Chest, side: Side, grade: float) -> Lesion:
    """Draw a patchy filling of the air spaces around open bronchi, with soft edges."""
    draw = _draws(patient, "Consolidation", 1, side == "left")
    frame = chest.frame
    centre = _spot(
        patient, pose, frame=frame, side=side, place=(float(draw.uniform(0.3, 0.7)), float(draw.uniform(0.3, 0.9)))
    )
    wide = 1.9 + 1.5 * grade
    shape = np.zeros(frame.x.shape)
    for _ in range(5):
        x, y = np.array(centre) + wide * 0.75 * draw.normal(size=2)
        size = wide * draw.uniform(0.6, 1.15, 2)
        shape += 0.8 * np.exp(-0.7 * (((frame.x - x) / size[0]) ** 2 + ((frame.y - y) / size[1]) ** 2))
    filled = smoothstep(shape + 0.16 * cloud(frame, draw, scale=2.2, octaves=3), (0.30, 1.25))
    filled = filled * (0.55 + 0.25 * grade) * _on_side(chest, side)
    bronchi = np.zeros(frame.x.shape)
    root = np.array([3.2 if side == "left" else -3.2, 0.42 * patient.length])
    for _ in range(6):
        tip = np.array(centre) + wide * draw.normal(size=2)
        line = curve(np.array([root, (root + tip) / 2 + 0.5 * draw.normal(size=2), tip]), 60)
        splat(bronchi, frame, points=line, radii=np.full(len(line), 0.2))
    density = filled * np.minimum(chest.air, 11.0) * (SOFT - LUNG) * (1 - 0.3 * bronchi)
    return Lesion(density=density, bare=0.8 * filled, mask=density > 0.22)


def _nodule(patient: Patient, pose: Pose, *, chest: Chest, side: Side, grade: float) -> Lesion:
    """Draw a slightly lobed nodule of 1.8 to 3.4 cm."""
    draw = _draws(patient, "Nodule", 1)
    frame = chest.frame
    place = (float(draw.uniform(0.28, 0.82)), float(draw.uniform(0.14, 0.88)))
    x, y = _spot(patient, pose, frame=frame, side=side, place=place)
    size = 0.9 + 0.8 * grade
    around = np.arctan2(frame.y - y, frame.x - x)
    lobes = 1 + 0.07 * np.sin(3 * around + draw.uniform(0, 6)) + 0.05 * np.sin(5 * around + draw.uniform(0, 6))
    radius = np.hypot((frame.x - x) / draw.uniform(0.9, 1.1), frame.y - y) / (size * lobes)
    density = 2 * size * dome(radius) * (SOFT - LUNG) * 1.25
    return Lesion(density=density, bare=np.zeros(frame.x.shape), mask=radius < 1)


_DRAWN = {
    "Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Nodule": _nodule,
}
