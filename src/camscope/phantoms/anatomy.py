"""Define the patient, which is the same in all its images, and the pose, which differs between images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from camscope.array_types import Mask
from camscope.phantoms.shapes import Array, Frame, clamp, dome, ellipse, smoothstep

View = Literal["AP", "PA"]
Side = Literal["left", "right"]

PATIENT_STREAM, POSE_STREAM, TEXTURE_STREAM, VESSEL_STREAM, FINDING_STREAM, NOISE_STREAM, MARKER_STREAM = range(7)


def draws(seed: int, *path: int) -> np.random.Generator:
    """Return an independent random generator per (seed, path), so that changing one part does not affect others.

    >>> bool(draws(1, 2).random() == draws(1, 2).random() != draws(1, 3).random())
    True
    """
    return np.random.default_rng([seed, *path])


@dataclass(frozen=True, kw_only=True)
class Patient:
    """The body of a patient, in centimetres; x towards the patient's left, y down from the top of the lungs.

    Attributes:
        seed: random seed of the body.
        sex: "F" or "M".
        age: years.
        width: half the inner width of the chest.
        length: from the top of the lungs to the costophrenic angles.
        depth: front to back inside the chest.
        fat: thickness of the chest wall on either side.
        bone: density of bone, 1 on average.
        heart: width of the heart over the inner width of the chest, in a PA image.
        heart_degrees: tilt of the heart's long axis.
        knob: how far the aortic arch bulges to the left.
        ribs: (10, 4) per pair: height at the spine, drop to the front end, half-thickness, front end in degrees.
        domes: height of the right and left dome of the diaphragm above the costophrenic angles.
        lean: sideways curve of the spine.
        bubble: (x, y, half-width, half-height) of the air in the stomach.
    """

    seed: int
    sex: Literal["F", "M"]
    age: int
    width: float
    length: float
    depth: float
    fat: float
    bone: float
    heart: float
    heart_degrees: float
    knob: float
    ribs: Array
    domes: tuple[float, float]
    lean: float
    bubble: tuple[float, float, float, float]

    @classmethod
    def of(cls, seed: int) -> Patient:
        """Return the patient of a seed.

        >>> Patient.of(3) .sex in ("F", "M")
        True
        """
        draw = draws(seed, PATIENT_STREAM)
        sex: Literal["F", "M"] = "F" if draw.random() < 0.48 else "M"
        age = int(np.clip(draw.normal(58, 17), 19, 92))
        bulk = draw.normal()
        size = 0.94 if sex == "F" else 1.02
        width = 13.4 * size * (1 + 0.035 * draw.normal())
        length = 23.6 * size * (1 + 0.045 * draw.normal())
        number = np.arange(10)
        spacing = length / 10.4
        ribs = np.column_stack(
            [
                -0.9 + spacing * number + 0.12 * draw.standard_normal(10),
                np.interp(number, [0, 1, 2, 4, 7, 9], [3.6, 5.2, 6.8, 8.8, 10.4, 9.6]) * length / 23.6
                + 0.25 * draw.standard_normal(),
                np.interp(number, [0, 2, 6, 9], [0.5, 0.58, 0.6, 0.52]) * size * (1 + 0.05 * draw.standard_normal(10)),
                np.interp(number, [0, 2, 5, 9], [160, 150, 136, 112]) + 3 * draw.standard_normal(10),
            ]
        )
        right = float(np.clip(draw.normal(4.2, 0.7), 2.8, 5.8))
        left = right - float(np.clip(draw.normal(0.9, 0.5), -0.3, 2.0))
        return cls(
            seed=seed,
            sex=sex,
            age=age,
            width=width,
            length=length,
            depth=float(np.clip(17.5 * size + 1.2 * draw.normal() + 0.02 * (age - 50), 13, 22)),
            fat=float(np.clip(2.6 + 0.8 * bulk, 1.4, 5.0)),
            bone=float(np.clip(1.08 - 0.004 * (age - 40) + 0.08 * draw.normal(), 0.7, 1.3)),
            heart=float(np.clip(0.455 + 0.018 * draw.normal() + 0.0004 * (age - 50), 0.40, 0.495)),
            heart_degrees=float(np.clip(draw.normal(36, 6), 22, 52)),
            knob=float(np.clip(0.7 + 0.018 * (age - 40) + 0.25 * draw.normal(), 0.3, 1.9)),
            ribs=ribs,
            domes=(right, left),
            lean=0.5 * float(draw.normal()),
            bubble=(
                float(draw.uniform(4.0, 7.5)),
                float(draw.uniform(1.3, 2.4)),
                float(draw.uniform(1.2, 3.0)),
                float(draw.uniform(0.6, 1.4)),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One image of a patient: view, breath, geometry and exposure.

    Attributes:
        view: "AP" (bedside) or "PA" (standing).
        shot: number of the image of this patient.
        degrees: rotation in the plane of the image.
        centre: point of the patient on the central ray, centimetres.
        field: height of the image in the patient, centimetres.
        stretch: width over height.
        turn: sideways shift of the front of the chest against its back.
        breath: height of the diaphragm above its position at full inspiration, centimetres.
        heart_scale: magnification of the heart against the chest.
        shoulder: elevation of the shoulders, centimetres.
        scapula: overlap of the shoulder blades with the lungs, centimetres.
        scatter: ratio of scattered to primary radiation.
        noise: relative noise of an unattenuated ray.
        blur: motion and focus, deviation in centimetres.
        black, white: display values of lung and mediastinum.
        gamma: exponent of the display curve.
        shutter: (left, top, right, bottom) closed part of the image, fractions of its sides.
        shutter_degrees: tilt of the collimator.
    """

    view: View
    shot: int
    degrees: float
    centre: tuple[float, float]
    field: float
    stretch: float
    turn: float
    breath: float
    heart_scale: float
    shoulder: float
    scapula: float
    scatter: float
    noise: float
    blur: float
    black: float
    white: float
    gamma: float
    shutter: tuple[float, float, float, float]
    shutter_degrees: float

    @classmethod
    def of(cls, patient: Patient, view: View, *, shot: int = 0) -> Pose:
        """Return the pose of the ``shot``-th image of a patient."""
        draw = draws(patient.seed, POSE_STREAM, shot)
        bedside = view == "AP"
        closed = np.where(draw.random(4) < 0.3, draw.uniform(0.01, 0.06, 4), 0.0)
        return cls(
            view=view,
            shot=shot,
            degrees=float(draw.normal(0, 2.2 if bedside else 1.2)),
            centre=(float(draw.normal(0.2, 0.7)), patient.length * 0.53 + float(draw.normal(0, 0.8))),
            field=float(np.clip(2 * patient.width * draw.normal(1.36, 0.05), 33, 43)),
            stretch=float(draw.normal(1.0, 0.025)),
            turn=float(draw.normal(0, 0.5 if bedside else 0.25)),
            breath=float(np.clip(draw.normal(1.9 if bedside else 0.4, 0.7), -0.4, 4.0)),
            heart_scale=float(draw.normal(1.09 if bedside else 1.0, 0.015)),
            shoulder=float(draw.normal(1.2 if bedside else 0.0, 0.6)),
            scapula=float(np.clip(draw.normal(2.4 if bedside else 0.2, 0.6), -0.8, 4.0)),
            scatter=float(draw.uniform(0.05, 0.12) * (1.5 if bedside else 1.0)),
            noise=float(draw.uniform(0.008, 0.014) * (1.4 if bedside else 1.0)),
            blur=float(draw.uniform(0.05, 0.09) * (1.3 if bedside else 1.0)),
            black=float(draw.uniform(0.10, 0.22)),
            white=float(draw.uniform(0.80, 0.93)),
            gamma=float(np.exp(draw.normal(0, 0.14))),
            shutter=(float(closed[0]), float(closed[1]), float(closed[2]), float(closed[3])),
            shutter_degrees=float(draw.normal(0, 0.8)),
        )

    def frame(self, size: tuple[int, int]) -> Frame:
        """Return the rays of the image in this pose."""
        return Frame.posed(size, centre=self.centre, field=self.field, degrees=self.degrees, stretch=self.stretch)


def spine_line(patient: Patient, y: Array) -> Array:
    """Return the horizontal position of the middle of the spine at each height."""
    return patient.lean * np.sin(y / patient.length * np.pi)


def lateral_edge(patient: Patient, y: Array) -> Array:
    """Return the half-width of the inner chest at each height: a bullet shape that starts at the lungs' tops."""
    base = 0.93 * patient.length
    up = clamp((base - y) / base)
    start = 0.33 * patient.width
    below = 1 - 0.004 * np.clip(y - base, 0, None) ** 2
    return (start + (patient.width - start) * np.sqrt(1 - up * up * np.sqrt(up))) * below


def medial_edge(patient: Patient, y: Array, *, side: Side) -> Array:
    """Return the half-width of the mediastinum without the heart at each height."""
    start = 0.33 * patient.width
    up = clamp((3.2 - y) / 3.2)
    if side == "right":
        edge = 2.5 - 1.2 * smoothstep(y, (8.0, 14.0))
    else:
        arch = 0.27 * patient.length
        edge = 2.1 - 0.9 * smoothstep(y, (10.0, 16.0)) + patient.knob * np.exp(-(((y - arch) / 1.5) ** 2))
        edge = edge + (0.45 + 0.25 * patient.knob) * np.exp(-(((y - arch - 4.0) / 1.9) ** 2))
    return start - (start - edge) * np.sqrt(1 - up**2)


def dome_edge(patient: Patient, pose: Pose, *, frame: Frame, side: Side) -> Array:
    """Return the height (y) of the diaphragm at each column of the image."""
    top = patient.domes[0 if side == "right" else 1]
    angle = patient.length - 0.45 * pose.breath
    summit = angle - top - 0.55 * pose.breath
    out = (np.abs(frame.x) - 0.47 * patient.width) / (0.53 * patient.width)
    lateral = (angle - summit) * np.clip(out, 0, 1.2) ** 2.6
    medial = -3.5 * np.clip(-out, 0, None) ** 2
    return summit + lateral + medial


@dataclass(frozen=True, kw_only=True)
class Chest:
    """The air and the organs of a chest in one pose, as (H, W) arrays.

    Attributes:
        frame: the rays.
        cavity: depth of the inner chest along each ray, centimetres.
        air: depth of lung along each ray, centimetres.
        heart_depth: depth of the heart along each ray, centimetres.
        left, right: the lung fields: inside the ribs, above the diaphragm, beside mediastinum and heart.
        heart: the silhouette of the heart.
        under: centimetres below the diaphragm, negative above it.
        outer: 0 at the midline, 1 at the inner side of the ribs.
    """

    frame: Frame
    cavity: Array
    air: Array
    heart_depth: Array
    left: Mask
    right: Mask
    heart: Mask
    under: Array
    outer: Array

    @property
    def lung(self) -> Mask:
        """Return both lung fields."""
        result: Mask = self.left | self.right
        return result

    def side(self, name: Side) -> Mask:
        """Return one lung field."""
        return self.left if name == "left" else self.right


def heart_radius(patient: Patient, pose: Pose, *, frame: Frame, ratio: float) -> Array:
    """Return the radius of every ray in units of the silhouette of a heart of ``ratio`` x the inner chest's width."""
    wide = ratio * 2 * patient.width
    bottom = patient.length - patient.domes[1] - 0.85 * pose.breath + 2.6
    shift = pose.turn * 0.8
    tilt = patient.heart_degrees - 12 * (pose.view == "AP")
    # An enlarged heart grows more to the sides than upwards.
    tall = 0.75 * wide + 0.25 * 2 * patient.width * 0.36
    ventricle = ellipse(
        frame, (0.165 * wide + shift, bottom - 0.38 * tall), axes=(0.56 * wide, 0.37 * tall), degrees=tilt
    )
    atrium = ellipse(frame, (-0.075 * wide + shift, bottom - 0.43 * tall), axes=(0.265 * wide, 0.40 * tall))
    outflow = ellipse(frame, (0.06 * wide + shift, bottom - 0.68 * tall), axes=(0.22 * wide, 0.36 * tall), degrees=-14)
    # 8-norm of the inverse radii: a union whose notches are filled.
    near = sum(1 / (part * part + 1e-6) ** 4 for part in (ventricle, atrium, outflow))
    return np.asarray(1 / np.sqrt(np.sqrt(np.sqrt(near))))


def open_chest(patient: Patient, pose: Pose, *, frame: Frame, heart_ratio: float) -> Chest:
    """Return air, heart and diaphragm of a patient, for a heart with ``heart_ratio`` of the inner chest's width."""
    x, y = frame.x, frame.y
    spine = spine_line(patient, y)
    is_left = x > spine
    lateral = lateral_edge(patient, y)
    outer = np.abs(x - 0.5 * spine) / np.maximum(lateral, 1e-6)
    medial = np.where(is_left, medial_edge(patient, y, side="left"), medial_edge(patient, y, side="right"))
    beside = (np.abs(x - spine - 0.5 * pose.turn) - medial) / 2.2
    profile = patient.depth * np.sqrt(np.sqrt(clamp(y / patient.length)))
    across = clamp(outer)
    across = np.sqrt(1 - across * across * np.sqrt(across))
    cavity = np.where(y > 0, profile * across, 0.0)

    edge = np.where(
        is_left, dome_edge(patient, pose, frame=frame, side="left"), dome_edge(patient, pose, frame=frame, side="right")
    )
    under = y - edge
    # Organs are round: their depth grows as that of a circle, which gives an edge in the image.
    liver = 8.5 * np.sqrt(np.maximum(under, 0.0))
    radius = heart_radius(patient, pose, frame=frame, ratio=heart_ratio)
    heart_depth = 1.3 * heart_ratio * 2 * patient.width * dome(radius)
    # Mediastinum, heart and liver displace air along the ray; if they overlap, the air is subtracted once.
    wall = cavity * (1 - dome(1 - clamp(beside)))
    air = np.clip(cavity - np.maximum(liver, heart_depth + wall), 0, None)

    field = (cavity > 0) & (outer < 1) & (beside > 0) & (under < 0) & (radius > 1)
    return Chest(
        frame=frame,
        cavity=cavity,
        air=air,
        heart_depth=heart_depth,
        left=field & is_left,
        right=field & ~is_left,
        heart=(radius < 1) & (y < patient.length - patient.domes[1] - pose.breath + 1.6),
        under=under,
        outer=outer,
    )
