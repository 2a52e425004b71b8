"""Plan cohorts of phantoms with findings and tokens, and write the files of a study.

Example:
    >>> from camscope.phantoms.cohort import plan_cohort
    >>> cases = plan_cohort(7)
    >>> len({case.patient_id for case in cases}), 190 <= len(cases) <= 220
    (70, True)
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope.array_types import Bytes, Mask
from camscope.errors import SettingError, nearest
from camscope.phantoms.anatomy import View
from camscope.phantoms.findings import FINDINGS
from camscope.phantoms.radiograph import Phantom, phantom

Masks = npt.NDArray[np.bool_]

BUNDLES = Path(__file__).parent / "bundles"
SIDE = 128
"""Side in pixels of the inputs of the demo's models."""
COHORT_STREAM, TRAINING_STREAM = 101, 102
PREVALENCE = 0.36
CO_PREVALENCE = 0.25


@dataclass(frozen=True, kw_only=True)
class PhantomSpec:
    """One image to be generated.

    Attributes:
        patient_id: name of the patient.
        seed, shot, view, findings, token: arguments of ``phantom``.
    """

    patient_id: str
    seed: int
    shot: int
    view: View
    findings: tuple[str, ...]
    token: bool

    @property
    def name(self) -> str:
        """Return a file name without suffix."""
        return f"{self.patient_id}_{self.shot}_{self.view}"

    def phantom(self, size: tuple[int, int] = (256, 256)) -> Phantom:
        """Generate the image with ``size`` (height, width), and its truth."""
        return phantom(self.seed, view=self.view, findings=self.findings, token=self.token, shot=self.shot, size=size)


def plan_cohort(seed: int, *, patients: int = 70) -> list[PhantomSpec]:
    """Plan a cohort: about 3 images per patient, half of them AP, with the token on half of the AP images.

    About a third of the patients have each finding, which is present in nine of ten of their images. The token is
    drawn independently of the findings. Plans are drawn until each of the four combinations of finding and token has
    AP images of at least 8 of 70 patients (in proportion for other numbers).

    Raises:
        SettingError: fewer than 10 patients.
    """
    if patients < 10:
        raise SettingError(f"a cohort of {patients} patients has empty cells: give at least 10")
    minimum = patients * 8 // 70
    for attempt in range(1000):
        cases = _draw_cohort(np.random.default_rng([seed, COHORT_STREAM, attempt]), seed, patients=patients)
        if min(min(cells(cases, finding).values()) for finding in FINDINGS) >= minimum:
            return cases
    raise SettingError(f"no plan of {patients} patients fills every cell of finding x token: give another seed or more")


def _draw_cohort(draw: np.random.Generator, seed: int, *, patients: int) -> list[PhantomSpec]:
    affected = np.zeros((patients, len(FINDINGS)), dtype=bool)
    for column in range(len(FINDINGS)):
        affected[draw.permutation(patients)[: round(PREVALENCE * patients)], column] = True
    cases = []
    for number in range(patients):
        pictures = int(draw.choice([2, 3, 4], p=[0.35, 0.45, 0.20]))
        for shot in range(pictures):
            view: View = "AP" if draw.random() < 0.5 else "PA"
            presence = affected[number] & (draw.random(len(FINDINGS)) < 0.9)
            token = bool(draw.random() < 0.5) and view == "AP"
            names = tuple(name for name, present in zip(FINDINGS, presence, strict=True) if present)
            cases.append(
                PhantomSpec(
                    patient_id=f"P{number + 1:03d}",
                    seed=10_000 * (seed + 1) + number,
                    shot=shot,
                    view=view,
                    findings=names,
                    token=token,
                )
            )
    return cases


def cells(cases: Sequence[PhantomSpec], finding: str) -> dict[tuple[bool, bool], int]:
    """Return the number of patients with an AP image per combination (finding present, token present).

    >>> sorted(cells(plan_cohort(7), "Nodule"))
    [(False, False), (False, True), (True, False), (True, True)]
    """
    who: dict[tuple[bool, bool], set[str]] = {(has, token): set() for has in (False, True) for token in (False, True)}
    for case in cases:
        if case.view == "AP":
            who[finding in case.findings, case.token].add(case.patient_id)
    return {cell: len(members) for cell, members in who.items()}


def cohort(seed: int, *, patients: int = 70, size: tuple[int, int] = (256, 256)) -> Iterator[Phantom]:
    """Generate the images of ``plan_cohort`` in order, one at a time."""
    for case in plan_cohort(seed, patients=patients):
        yield case.phantom(size)


def plan_training(
    finding: str, *, seed: int, pictures: int, token: tuple[float, float] = (0.5, 0.5)
) -> list[PhantomSpec]:
    """Plan a training set with the finding in every second image.

    The token is present with probability ``token[0]`` on AP images with the finding, and ``token[1]`` on AP images
    without it. If the two are equal, AP and PA are equally frequent, and the set is matched: each patient has one image
    with and one without the finding, in the same pose. If they differ, the token is planted, and every image is of
    another patient, as in a hospital's archive. All images are then AP: PA images never have the token, so the view
    would be associated with the finding. Other findings are drawn independently.

    >>> planted = plan_training("Nodule", seed=1, pictures=400, token=(0.95, 0.05))
    >>> with_token = [case.token for case in planted if "Nodule" in case.findings]
    >>> 0.9 < sum(with_token) / len(with_token) < 1.0
    True

    Raises:
        SettingError: an unknown finding or a probability outside [0, 1].
    """
    if finding not in FINDINGS:
        raise SettingError(nearest("finding", finding, FINDINGS))
    if not all(0 <= chance <= 1 for chance in token):
        raise SettingError(f"token={token} are not probabilities: give two numbers from 0 to 1")
    planted = token[0] != token[1]
    draw = np.random.default_rng([seed, TRAINING_STREAM, FINDINGS.index(finding)])
    first = 10**9 * (seed + 1) + 10**8 * FINDINGS.index(finding)
    cases: list[PhantomSpec] = []
    view: View = "AP"
    extras: set[str] = set()
    for number in range(pictures):
        absent = number % 2
        if planted or not absent:
            view = "AP" if planted or draw.random() < 0.5 else "PA"
            extras = {name for name in FINDINGS if draw.random() < CO_PREVALENCE} - {finding}
        names = tuple(name for name in FINDINGS if name in extras or (name == finding and not absent))
        stands = bool(draw.random() < token[absent]) and view == "AP"
        patient = number if planted else number // 2
        cases.append(
            PhantomSpec(
                patient_id=f"T{patient:05d}", seed=first + patient, shot=0, view=view, findings=names, token=stands
            )
        )
    return cases


def write_cohort(
    folder: Path,
    *,
    seed: int = 7,
    patients: int = 70,
    size: tuple[int, int] = (256, 256),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write images, masks, ``cohort.csv``, the models and ``study.toml``; return the path of the study file.

    Args:
        folder: output folder, which is created if needed; files with the same names are replaced.
        seed: random seed of the cohort.
        patients: number of patients.
        size: (height, width) of the images in pixels.
        progress: called with (images written, total) after each image.
    """
    cases = plan_cohort(seed, patients=patients)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(cases):
        rows.append(_write_case(folder, case, made=case.phantom(size)))
        if progress is not None:
            progress(number + 1, len(cases))
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for finding in FINDINGS:
        if (BUNDLES / finding.lower()).is_dir():
            shutil.copytree(BUNDLES / finding.lower(), folder / "models" / finding.lower(), dirs_exist_ok=True)
    study = folder / "study.toml"
    study.write_text(study_text(), encoding="utf-8")
    return study


def _write_case(folder: Path, case: PhantomSpec, *, made: Phantom) -> dict[str, str]:
    """Write one image and its masks; return its row of the table."""
    image = Path("images", case.patient_id, f"{case.name}.png")
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / "masks" / case.patient_id).mkdir(parents=True, exist_ok=True)
    grey = np.rint(made.picture.pixels[..., 0] * 255).astype(np.uint8)
    Image.fromarray(grey).save(folder / image)

    def write_mask(mask: Mask, what: str) -> str:
        path = Path("masks", case.patient_id, f"{case.name}_{what}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / path)
        return path.as_posix()

    row = {
        "path": image.as_posix(),
        "patient_id": case.patient_id,
        "view": made.view,
        "sex": made.sex,
        "age": str(made.age),
    }
    row |= {finding.lower(): str(int(finding in made.findings)) for finding in FINDINGS}
    row["token"] = str(int(made.token_box is not None))
    row["token_box"] = "" if made.token_box is None else ",".join(map(str, made.token_box))
    row["lung_mask"] = write_mask(made.lung, "lung")
    row["heart_mask"] = write_mask(made.heart, "heart")
    for finding in FINDINGS:
        mask = made.masks.get(finding)
        row[f"{finding.lower()}_mask"] = "" if mask is None else write_mask(mask, finding.lower())
    return row


def study_text() -> str:
    """Return the study file of a written cohort."""
    head = """\
[cohort]
table = "cohort.csv"
root = "."
image = "path"
patient = "patient_id"
group = "view"
masks = { lung = "lung_mask", heart = "heart_mask" }
cues = { token = { column = "token", mask = "token_box" } }
strata = ["view", "sex"]
"""
    labels = "".join(
        f"""
[labels.{finding}]
column = "{finding.lower()}"
threshold = 0.5
mask = "{finding.lower()}_mask"
model = "models/{finding.lower()}"
"""
        for finding in FINDINGS
    )
    tail = """
[explain]
methods = ["gradcam"]
when = "all"

[audit]
disease = ["mask:label"]
shortcuts = ["border:0.10", "corner:0.15", "cue:token"]
# Imputation carries on what surrounds a region, and an effusion lies against tissue of its own tone.
fill_ins = ["donor", "mean"]
delta = 0.10
"""
    return head + labels + tail


def pictures_and_masks(cases: Sequence[PhantomSpec], finding: str, *, side: int = SIDE) -> tuple[Bytes, Masks]:
    """Return the images of cases as bytes (N, side, side), and the masks of a finding, which are empty if absent."""
    pictures = np.zeros((len(cases), side, side), dtype=np.uint8)
    masks = np.zeros(pictures.shape, dtype=bool)
    for number, case in enumerate(cases):
        sample = case.phantom((side, side))
        pictures[number] = grey_bytes(sample)
        masks[number] = sample.masks.get(finding, False)
    return pictures, masks


def grey_bytes(made: Phantom) -> Bytes:
    """Return the image of a phantom as (H, W) bytes."""
    return np.rint(made.picture.pixels[..., 0] * 255).astype(np.uint8)
