"""Draw soft tissue, airways and vessels, summed along each ray."""

from __future__ import annotations

import numpy as np

from camscope.phantoms.anatomy import TEXTURE_STREAM, VESSEL_STREAM, Chest, Patient, Pose, draws, lateral_edge
from camscope.phantoms.shapes import (
    Array,
    Frame,
    add_body,
    cloud,
    curve,
    dome,
    ellipse,
    line_distance,
    smoothstep,
    splat,
)

SOFT = 0.195  # attenuation of soft tissue per centimetre, about 60 keV
LUNG = 0.050  # attenuation of inflated lung per centimetre


def body(patient: Patient, pose: Pose, *, frame: Frame) -> Array:
    """Return the thickness of the body along each ray, centimetres, as if the lungs were filled."""
    x, y = frame.x, frame.y
    aside = np.abs(x)
    half = lateral_edge(patient, np.maximum(y, 5.5)) + 0.9 + patient.fat * (0.9 + 0.02 * np.clip(y - 8, 0, 14))
    thick = patient.depth + 1.1 * patient.fat
    across = dome(x / half)
    belly = 1 + 0.012 * np.clip(y - 0.7 * patient.length, 0, 12)
    trunk = thick * belly * np.sqrt(across) * smoothstep(y, (-7.0, 7.0))
    neck = 14.5 * dome(x / (5.8 + 0.5 * np.maximum(y + 5, 0)))
    top = -5.0 - 0.75 * pose.shoulder + 0.13 * np.maximum(aside - 5.0, 0) + 0.0005 * aside**3
    shoulder = 14.5 * np.sqrt(1 - np.exp(-np.maximum(y - top, 0) / 2.6)) * smoothstep(y, (19.0, 7.0))
    shoulder = shoulder * smoothstep(aside, (1.75 * patient.width, 1.2 * patient.width))
    arms = np.zeros(x.shape)
    reach = 7.0 if pose.view == "PA" else 2.6
    for side in (-1, 1):
        joint = side * 1.27 * patient.width
        line = np.array([[joint, 3.0], [joint + side * 0.4 * reach, 9.0], [joint + side * reach, 26.0]])
        radius = 3.7 + 0.35 * patient.fat
        box, gap, _ = line_distance(frame, curve(line, 2), reach=radius)
        if gap.size:
            arms[box] = np.maximum(arms[box], 2 * radius * dome(gap / radius))
    # Touching bodies are blended softly to avoid a visible line.
    return np.asarray(
        np.cbrt(trunk * trunk * trunk + neck * neck * neck + shoulder * shoulder * shoulder + arms * arms * arms)
    )


def breasts(patient: Patient, pose: Pose, *, frame: Frame) -> Array:
    """Return the thickness of the breasts, or of the pectoral muscles, along each ray."""
    total = np.zeros(frame.x.shape)
    for side in (-1, 1):
        if patient.sex == "F":
            sag = 0.04 * (patient.age - 40)
            wide, depth = 5.2 + 0.5 * patient.fat, 1.3 + 0.55 * patient.fat
            place = (side * (0.55 * patient.width + 0.4 * (pose.view == "AP")), 16.0 + sag)
            radius = ellipse(frame, place, axes=(wide, 4.6 + 0.4 * patient.fat), degrees=side * 12)
            total += depth * dome(radius) * smoothstep(frame.y, (10.0, 17.5))
        else:
            radius = ellipse(frame, (side * 0.75 * patient.width, 6.5), axes=(6.0, 5.5), degrees=-side * 30)
            total += 0.9 * dome(radius)
    return total


def airways(patient: Patient, pose: Pose, *, frame: Frame) -> Array:
    """Return the depth of air in the trachea and the main bronchi, centimetres."""
    total = np.zeros(frame.x.shape)
    carina = 0.34 * patient.length
    shift = 0.35 * pose.turn - 0.15
    trunk = np.array([[0.0 + shift * 0.4, -9.0], [0.1 * shift, 0.0], [shift - 0.15, carina]])
    right = np.array([[shift - 0.2, carina - 0.6], [-1.5, carina + 1.5], [-3.2, carina + 4.4]])
    left = np.array([[shift - 0.1, carina - 0.5], [2.0, carina + 1.6], [4.6, carina + 3.4]])
    for line, radius in ((trunk, 0.85), (right, 0.6), (left, 0.52)):
        box, gap, along = line_distance(frame, curve(line, 3), reach=radius)
        if gap.size:
            chord = 2 * radius * dome(gap / radius) * (1.0 if radius > 0.8 else smoothstep(along, (1.0, 0.5)))
            total[box] = np.maximum(total[box], chord)
    return total


def vessels(patient: Patient, frame: Frame) -> Array:
    """Return the depth of blood in the vessels of both lungs, centimetres: trees that branch from the hila outwards."""
    total = np.zeros(frame.x.shape)
    draw = draws(patient.seed, VESSEL_STREAM)
    step = min(0.55 * frame.pixel, 0.2)
    for side in (-1, 1):
        hilum = np.array([side * 3.3 + 0.2, (0.43 if side < 0 else 0.39) * patient.length])
        fan = np.radians(np.array([-78.0, -52.0, -25.0, 2.0, 22.0, 40.0, 56.0, 72.0, 84.0])) + 0.13 * draw.normal(
            size=9
        )
        place = np.repeat(hilum[None], 9, axis=0) + draw.normal(size=(9, 2)) * [0.35, 0.9]
        radius = np.where(fan > 0.5, 0.46, 0.34) * (1 + 0.12 * draw.normal(size=9))
        length = 3.2 + 0.8 * draw.random(9)
        for _ in range(6 if frame.pixel < 0.2 else 5):
            bend = 0.55 * draw.normal(size=len(fan))
            place, tip = _grow(
                total, frame, side=side, place=place, fan=fan, bend=bend, length=length, radius=radius, step=step
            )
            fork = 0.30 + 0.25 * draw.random(len(fan))
            thin = 0.70 + 0.16 * draw.random((len(fan), 2))
            fan = np.concatenate([tip - fork, tip + fork * draw.random(len(fork))])
            place = np.concatenate([place, place])
            radius = np.concatenate([radius * thin[:, 0], radius * thin[:, 1]])
            length = np.concatenate([length, length]) * draw.uniform(0.62, 0.95, 2 * len(length))
    return total


def _grow(
    total: Array,
    frame: Frame,
    *,
    side: int,
    place: Array,
    fan: Array,
    bend: Array,
    length: Array,
    radius: Array,
    step: float,
) -> tuple[Array, Array]:
    """Draw one generation of branches; return their end points (N, 2) and directions (N,)."""
    count = max(int(np.ceil(length.max() / step)), 2)
    t = np.linspace(0, 1, count)
    angle = fan[:, None] + bend[:, None] * t
    stride = length[:, None] / (count - 1)
    x = place[:, :1] + side * np.cumsum(np.cos(angle) * stride, axis=1) - side * np.cos(angle[:, :1]) * stride
    y = place[:, 1:] + np.cumsum(np.sin(angle) * stride, axis=1) - np.sin(angle[:, :1]) * stride
    thickness = radius[:, None] * (1 - 0.22 * t)
    splat(total, frame, points=np.column_stack([x.ravel(), y.ravel()]), radii=thickness.ravel())
    return np.column_stack([x[:, -1], y[:, -1]]), angle[:, -1]


def hila(patient: Patient, frame: Frame) -> Array:
    """Return the depth of soft tissue at the roots of the lungs, centimetres."""
    draw = draws(patient.seed, VESSEL_STREAM, 1)
    total = np.zeros(frame.x.shape)
    for side in (-1, 1):
        root = np.array([side * 3.4, (0.44 if side < 0 else 0.40) * patient.length])
        for offset in ((0.0, -1.2), (0.5, 0.3), (0.3, 1.8), (0.9, 3.0)):
            x, y = root + np.array([side * offset[0], offset[1]]) + 0.25 * draw.normal(size=2)
            axes = (1.3 + 0.4 * float(draw.random()), 2.0 + 0.6 * float(draw.random()))
            add_body(total, frame, centre=(float(x), float(y)), axes=axes, peak=1.0, degrees=-side * 20.0)
    return total


def texture(patient: Patient, chest: Chest) -> tuple[Array, Array]:
    """Return random variations of the soft tissue (relative, about 0) and of the lungs (centimetres of tissue)."""
    draw = draws(patient.seed, TEXTURE_STREAM)
    soft = 0.012 * cloud(chest.frame, draw, scale=5.0, octaves=3)
    fine = cloud(chest.frame, draw, scale=0.8, octaves=2)
    lung = 0.008 * chest.air * fine + 0.02 * chest.air * cloud(chest.frame, draw, scale=6.0, octaves=2)
    return soft, lung


def stomach(patient: Patient, pose: Pose, *, chest: Chest) -> Array:
    """Return the depth of air in the stomach and bowel below the left dome, centimetres; level below when standing."""
    x, under, wide, high = patient.bubble
    radius = np.hypot((chest.frame.x - x) / wide, (chest.under - under) / high)
    depth = 2.6 * np.sqrt(wide) * smoothstep(radius, (1.05, 0.35))
    if pose.view == "PA":
        depth = depth * smoothstep(chest.under, (under + 0.5 * high, under + 0.2 * high))
    bowel = cloud(chest.frame, draws(patient.seed, TEXTURE_STREAM, 1), scale=4.0, octaves=3)
    return np.asarray(depth + 0.8 * np.maximum(bowel - 0.9, 0) * smoothstep(chest.under, (3.0, 6.0)))
