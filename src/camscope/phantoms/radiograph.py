"""Generate phantom chest radiographs with known patient, findings and masks.

The image is computed like a radiograph: attenuation is summed along parallel rays through bones, soft tissue and air.
The transmitted radiation follows Beer-Lambert's law. Scatter and quantum noise are added, and the detector's logarithm
gives the grey values.

Example:
    >>> from camscope.phantoms.radiograph import phantom
    >>> made = phantom(7, view="AP", findings=["Nodule"], token=True, size=(64, 64))
    >>> made.picture.size, made.findings, bool(made.masks["Nodule"].any())
    ((64, 64), ('Nodule',), True)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from camscope.array_types import Mask
from camscope.errors import SettingError, nearest
from camscope.images.picture import Picture
from camscope.phantoms.anatomy import NOISE_STREAM, Chest, Patient, Pose, View, draws, open_chest
from camscope.phantoms.findings import FINDINGS, Lesion, heart_ratio, lesion
from camscope.phantoms.markers import PixelBox, ap_token, side_marker
from camscope.phantoms.shapes import Array, Frame, blur, smoothstep
from camscope.phantoms.skeleton import skeleton
from camscope.phantoms.tissue import LUNG, SOFT, airways, body, breasts, hila, stomach, texture, vessels

__all__ = ["FINDINGS", "Phantom", "phantom"]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A generated chest radiograph with its truth.

    Attributes:
        picture: grey image, float32 in [0, 1], in steps of 1/255.
        seed: seed of the patient.
        shot: number of the image of this patient.
        view: "AP" or "PA".
        sex: "F" or "M".
        age: years.
        findings: names in ``FINDINGS``.
        left_lung, right_lung: (H, W) lung fields, the patient's left and right; findings do not reduce them, except for
            an enlarged heart.
        heart: (H, W) silhouette of the heart.
        masks: finding -> (H, W) mask.
        token_box: (x0, y0, x1, y1) of the AP token in pixels, ends excluded; None without token.
        marker_box: box of the side marker; None without marker.
    """

    picture: Picture
    seed: int
    shot: int
    view: View
    sex: str
    age: int
    findings: tuple[str, ...]
    left_lung: Mask = field(repr=False)
    right_lung: Mask = field(repr=False)
    heart: Mask = field(repr=False)
    masks: dict[str, Mask] = field(repr=False)
    token_box: PixelBox | None
    marker_box: PixelBox | None

    @property
    def lung(self) -> Mask:
        """Return both lung fields."""
        result: Mask = self.left_lung | self.right_lung
        return result


def phantom(
    seed: int,
    *,
    view: View = "PA",
    findings: Iterable[str] = (),
    token: bool = False,
    shot: int = 0,
    size: tuple[int, int] = (256, 256),
) -> Phantom:
    """Generate a chest radiograph of the patient of ``seed``.

    The seed determines the patient: anatomy, and severity and position of each finding. The ``shot`` determines pose,
    exposure, side marker and noise. Adding a finding or the token changes nothing else.

    Args:
        seed: seed of the patient, 0 or more.
        view: "AP" (bedside: larger heart, less breath, shoulder blades over the lungs) or "PA".
        findings: any of ``FINDINGS``.
        token: write AP into the outer tenth of the image (AP images only).
        shot: number of the image of this patient, 0 or more.
        size: (height, width) in pixels, at least 64 each.

    Raises:
        SettingError: an unknown view or finding, a token on a PA image, a size below 64.
    """
    names = _checked(view, findings, token=token, size=size)
    scene = _scene(seed, view, shot=shot, size=size)
    chest = scene.chest
    if "Cardiomegaly" in names:
        ratio = heart_ratio(scene.patient, names) * scene.pose.heart_scale
        chest = open_chest(scene.patient, scene.pose, frame=chest.frame, heart_ratio=ratio)
    lesions = {name: lesion(name, scene.patient, pose=scene.pose, chest=chest) for name in names}
    grey = _expose(scene, _attenuation(scene, chest, lesions=list(lesions.values())))
    marker_box = side_marker(grey, seed, shot=shot)
    token_box = ap_token(grey, seed, shot=shot, avoid=marker_box) if token else None
    pixels = (np.rint(np.clip(grey, 0, 1) * 255) / 255).astype(np.float32)[..., None]
    spacing = 10 * chest.frame.pixel
    return Phantom(
        picture=Picture(pixels, source=f"phantom {seed}/{shot}", spacing=(spacing, spacing)),
        seed=seed,
        shot=shot,
        view=view,
        sex=scene.patient.sex,
        age=scene.patient.age,
        findings=names,
        left_lung=chest.left.copy(),
        right_lung=chest.right.copy(),
        heart=chest.heart.copy(),
        masks={name: entry.mask.copy() for name, entry in lesions.items()},
        token_box=token_box,
        marker_box=marker_box,
    )


def _checked(view: str, findings: Iterable[str], *, token: bool, size: tuple[int, int]) -> tuple[str, ...]:
    if view not in ("AP", "PA"):
        raise SettingError(f"a phantom has no view {view!r}: choose 'AP' or 'PA'")
    if isinstance(findings, str):
        raise SettingError(f"findings is the text {findings!r}: give a list, [{findings!r}]")
    names = set(findings)
    for name in names:
        if name not in FINDINGS:
            raise SettingError(nearest("finding", name, FINDINGS))
    if token and view != "AP":
        raise SettingError("the AP token stands on AP images only: give view='AP' or token=False")
    if min(size) < 64:
        raise SettingError(f"a phantom of {size[0]} x {size[1]} pixels is too small: give at least 64 x 64")
    return tuple(name for name in FINDINGS if name in names)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """A patient in a pose, before any finding.

    Attributes:
        patient, pose, chest: the patient, the pose and the chest.
        still: (H, W) line integral of everything but lung and its vessels.
        markings: (H, W) line integral of vessels and lung texture.
    """

    patient: Patient
    pose: Pose
    chest: Chest
    still: Array
    markings: Array


@lru_cache(maxsize=2)
def _scene(seed: int, view: View, *, shot: int, size: tuple[int, int]) -> _Scene:
    """Return the slow part of a phantom; cached, because images are often generated with and without a finding."""
    patient = Patient.of(seed)
    pose = Pose.of(patient, view, shot=shot)
    frame = pose.frame(size)
    chest = open_chest(patient, pose, frame=frame, heart_ratio=patient.heart * pose.heart_scale)
    soft_noise, lung_noise = texture(patient, chest)
    solid = body(patient, pose, frame=frame)
    solid = solid * (1 + soft_noise) + breasts(patient, pose, frame=frame) * (solid > 0.5)
    still = SOFT * (np.maximum(solid, 0) - airways(patient, pose, frame=frame) - stomach(patient, pose, chest=chest))
    still = still + skeleton(patient, pose, frame=frame) * smoothstep(solid, (0.2, 2.0))
    markings = (SOFT - LUNG) * (1.6 * vessels(patient, frame) + hila(patient, frame) + lung_noise)
    return _Scene(patient=patient, pose=pose, chest=chest, still=still, markings=markings)


def _attenuation(scene: _Scene, chest: Chest, *, lesions: list[Lesion]) -> Array:
    """Return the line integrals of attenuation of a chest with its findings."""
    shape = chest.air.shape
    change, bare = np.zeros(shape), np.zeros(shape)
    for entry in lesions:
        change, bare = change + entry.density, np.maximum(bare, entry.bare)
    # Findings at the same position share the air at this position.
    change = np.minimum(change, np.maximum(0.95 * (SOFT - LUNG) * chest.air, 0.75 * change))
    aerated = smoothstep(chest.air, (0.3, 3.0))
    rays = scene.still - (SOFT - LUNG) * chest.air + scene.markings * aerated * (1 - bare)
    return np.asarray(np.maximum(rays + change, 0))


def _expose(scene: _Scene, rays: Array) -> Array:
    """Convert line integrals to grey values: Beer-Lambert, scatter, noise, logarithm, contrast, display curve.

    The display window is set for the chest without findings, so that a finding does not change the grey values around
    it.
    """
    pose, chest = scene.pose, scene.chest
    pixel = chest.frame.pixel
    healthy = _detected(np.exp(-_attenuation(scene, chest, lesions=[])), pose, pixel=pixel)
    light = _detected(np.exp(-blur(rays, pose.blur / pixel)), pose, pixel=pixel)
    grain = 1.9 * blur(draws(scene.patient.seed, NOISE_STREAM, pose.shot).standard_normal(rays.shape), 0.55)
    # A larger pixel detects more quanta; the noise is the square root of their number.
    light = light * (1 + 0.028 * pose.noise / pixel * grain * np.minimum(1 / np.sqrt(light), 9.0))
    density = -np.log(np.maximum(light, 1e-4))
    density = density + 0.55 * (density - _coarse_blur(density, 1.6 / pixel))
    usual = -np.log(healthy)
    lungs = chest.lung & (chest.air > 4)
    low = np.percentile(usual[lungs], 10) if lungs.any() else 1.0
    high = np.percentile(usual[chest.heart], 85) if chest.heart.any() else 4.0
    value = pose.black + (pose.white - pose.black) * (density - low) / max(high - low, 0.5)
    return np.asarray(_display_curve(value) ** pose.gamma * _shutter(pose, chest.frame))


def _detected(light: Array, pose: Pose, *, pixel: float) -> Array:
    """Add scatter, which spreads over centimetres, to the primary radiation."""
    return np.asarray(light + pose.scatter * _coarse_blur(light, 4.0 / pixel))


def _display_curve(value: Array) -> Array:
    """Apply a display curve that is linear in the middle and saturates softly at black and white."""
    toe = 0.12
    value = np.where(value < toe, toe * np.exp((value - toe) / toe), value)
    knee = 0.82
    return np.where(value > knee, 1 - (1 - knee) * np.exp(-(value - knee) / (1 - knee)), value)


def _coarse_blur(image: Array, sigma: float) -> Array:
    """Blur an image; wide blurs are computed on fewer pixels."""
    step = int(sigma // 3)
    if step < 2:
        return blur(image, sigma)
    height, width = image.shape
    padded = np.pad(image, ((0, -height % step), (0, -width % step)), mode="edge")
    rough = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).mean(axis=(1, 3))
    rough = np.repeat(np.repeat(blur(rough, sigma / step), step, axis=0), step, axis=1)[:height, :width]
    return blur(rough, step / 2)


def _shutter(pose: Pose, frame: Frame) -> Array:
    """Return (H, W), 1 if the collimator is open, nearly 0 if it is closed."""
    height, width = frame.x.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    tilt = np.tan(np.radians(pose.shutter_degrees))
    u = (columns + tilt * (rows - height / 2)) / width
    v = (rows - tilt * (columns - width / 2)) / height
    left, top, right, bottom = pose.shutter
    soft = 0.006
    gate = np.ones((height, width))
    for closed, distance in ((left, u), (top, v), (right, 1 - u), (bottom, 1 - v)):
        if closed > 0:
            gate = gate * smoothstep(distance, (closed - soft, closed + soft))
    return np.asarray(0.02 + 0.98 * gate)
