"""Draw bones: their attenuation minus that of soft tissue, summed along each ray."""

from __future__ import annotations

import numpy as np

from camscope.phantoms.anatomy import Patient, Pose, lateral_edge, spine_line
from camscope.phantoms.shapes import (
    Array,
    Frame,
    add_body,
    add_bone,
    bone_profile,
    curve,
    dome,
    ellipse,
    plate,
    smoothstep,
)


def skeleton(patient: Patient, pose: Pose, *, frame: Frame) -> Array:
    """Return the line integral of all bones, (H, W), minus that of the displaced soft tissue."""
    total = np.zeros(frame.x.shape)
    _ribs(total, patient, pose=pose, frame=frame)
    _spine(total, patient, frame=frame)
    _clavicles(total, patient, pose=pose, frame=frame)
    for side in (-1, 1):
        _shoulder(total, patient, pose=pose, frame=frame, side=side)
    _sternum(total, patient, pose=pose, frame=frame)
    return np.asarray(total * patient.bone)


def _ribs(total: Array, patient: Patient, *, pose: Pose, frame: Frame) -> None:
    for start, drop, half, front in patient.ribs:
        middle = start + drop / 2
        wide = float(lateral_edge(patient, np.array(max(middle, 0.9)))) + 0.35
        corners = np.array([[-wide, start], [wide, start], [wide, start + drop], [-wide, start + drop]])
        box = frame.box(corners, 1.5)
        x, y = frame.x[box], frame.y[box]
        if x.size == 0:
            continue
        # A rib is a tilted ring: seen from the front an ellipse whose upper half is behind and lower half in front.
        side = np.abs(x - spine_line(patient, y) * 0.4) / wide
        v = (y - middle - 0.5 * side * side + 0.25) / (drop / 2)
        radius = np.hypot(side, v) + 1e-6
        gap = (radius - 1) * radius / (np.hypot(side / wide, v / (drop / 2)) + 1e-6)
        near = np.abs(gap) < 1.4 * half
        gap, angle = gap[near], np.degrees(np.arctan2(side[near], -v[near]))
        sin, cos = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        # At the sides, ribs run along the rays, which pass through more bone.
        sideways = np.hypot(wide * cos, drop / 2 * sin)
        along = np.hypot(sideways, 0.45 * patient.depth * sin) / sideways
        begin = 8.0 + 60.0 / wide
        extent = smoothstep(angle, (begin - 3, begin + 4)) * smoothstep(angle, (front + 4, front - 4))
        broad = 1 + 0.22 * smoothstep(angle, (95.0, 140.0))
        profile = bone_profile(gap / broad, half) * np.minimum(along, 1.9)
        total[box][near] += 0.66 * profile * extent * (1 - 0.3 * smoothstep(angle, (85.0, 105.0)))


def _spine(total: Array, patient: Patient, *, frame: Frame) -> None:
    spacing = patient.length / 10.4
    for number in range(-3, 14):
        y = -0.6 + spacing * (number - 0.2)
        x = float(spine_line(patient, np.array(y)))
        half = 1.35 + 0.055 * number
        box = frame.box(np.array([[x, y]]), 3.4)
        part = frame.part(box)
        if part.x.size == 0:
            continue
        waist = half * (0.9 + 0.1 * np.clip(np.abs(part.y - y) / (0.4 * spacing), 0, 1) ** 2)
        inside = np.minimum(waist - np.abs(part.x - x), 0.41 * spacing - np.abs(part.y - y))
        body = smoothstep(inside, (-0.08, 0.12)) * (0.10 + 0.08 * smoothstep(inside, (0.28, 0.05)))
        if number >= 0:
            for sign in (-1, 1):
                ring = ellipse(part, (x + sign * 0.62 * half, y - 0.25 * spacing), axes=(0.34, 0.5))
                body = body + 0.08 * smoothstep(ring, (1.15, 0.9)) * smoothstep(ring, (0.35, 0.8))
                wing = ellipse(
                    part, (x + sign * (half + 0.75), y - 0.3 * spacing), axes=(1.1, 0.34), degrees=-sign * 18
                )
                body = body + 0.10 * dome(wing)
        process = ellipse(part, (x, y + 0.3 * spacing), axes=(0.24, 0.62))
        total[box] += body + 0.10 * dome(process)


def _clavicles(total: Array, patient: Patient, *, pose: Pose, frame: Frame) -> None:
    raised = pose.shoulder
    for side in (-1, 1):
        inner = 1.9 * side + pose.turn
        points = np.array(
            [
                [inner, 3.0 - 0.25 * raised],
                [inner + side * 2.6, 2.0 - 0.55 * raised],
                [inner + side * 6.5, 1.1 - 0.8 * raised],
                [inner + side * 10.0, 0.0 - 1.0 * raised],
                [side * (1.12 * patient.width), -0.3 - 1.05 * raised],
            ]
        )
        add_bone(total, frame, line=curve(points), radius=0.58, density=1.0)
        add_body(total, frame, centre=(inner + 0.2 * side, 3.1 - 0.25 * raised), axes=(1.0, 0.75), peak=0.16)


def _shoulder(total: Array, patient: Patient, *, pose: Pose, frame: Frame, side: int) -> None:
    """Draw one shoulder blade and upper arm."""
    out, up, over = patient.width, pose.shoulder, pose.scapula

    def at(x: float, y: float) -> list[float]:
        return [side * x, y]

    socket = (1.16 * out - 0.3 * over, 3.6 - up)
    tip = (0.97 * out - 0.75 * over, 13.0 - 0.6 * up)
    inner = (0.90 * out - over, 4.4 - 0.8 * up)
    corners = np.array([at(*inner), at(*socket), at(*tip)])
    box, inside = plate(frame, corners if side > 0 else corners[::-1], edge=0.3)
    if inside.size:
        total[box] += 0.15 * inside
    lateral = np.array([at(*socket), at(socket[0] - 0.9, socket[1] + 2.6), at(*tip)])
    medial = np.array([at(*inner), at(inner[0] - 0.1, inner[1] + 4.0), at(*tip)])
    ridge = np.array([at(inner[0], inner[1] + 0.4), at(1.04 * out, 1.4 - up), at(1.27 * out, -0.4 - up)])
    add_bone(total, frame, line=curve(lateral), radius=0.46, density=0.9)
    add_bone(total, frame, line=curve(medial), radius=0.24, density=0.8)
    add_bone(total, frame, line=curve(ridge), radius=0.5, density=0.6)
    add_body(total, frame, centre=(side * (socket[0] - 1.7), socket[1] - 1.9), axes=(0.8, 0.55), peak=0.2)
    head = (side * (socket[0] + 1.9), socket[1] - 0.2)
    add_body(total, frame, centre=head, axes=(2.1, 2.2), peak=0.55)
    add_body(total, frame, centre=head, axes=(1.95, 2.05), peak=-0.13)
    reach = 6.5 if pose.view == "PA" else 2.2
    shaft = np.array(
        [[head[0], head[1]], [head[0] + side * (0.4 * reach), head[1] + 5], [head[0] + side * reach, 18.0]]
    )
    add_bone(total, frame, line=curve(shaft), radius=1.1, density=0.8)


def _sternum(total: Array, patient: Patient, *, pose: Pose, frame: Frame) -> None:
    """Draw the manubrium, which is hardly visible in front of the spine."""
    corners = np.array([[-2.2, 2.6], [2.2, 2.6], [1.5, 7.0], [-1.5, 7.0]]) + np.array([pose.turn, 0.0])
    box, inside = plate(frame, corners, edge=0.4)
    if inside.size:
        total[box] += 0.09 * inside
