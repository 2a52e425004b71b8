"""Training, validation and test sets that share no patient and no image."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from camscope.array_types import Floats
from camscope.cohort.case import Case
from camscope.delimited import read_records
from camscope.errors import DelimitedError, SettingError, StoreError, reason
from camscope.files import write_atomically
from camscope.images.source import is_address
from camscope.training.dataset import SPLITS, Dataset

FILE = "split.csv"
FRACTIONS = (0.7, 0.15, 0.15)
_LISTED = 5


def split(dataset: Dataset, *, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Dataset:
    """Assign every usable image to a split.

    Splits in the data are kept, and must not leak; a missing validation or test set is taken from the training set.
    Without splits in the data, patients are assigned as a whole, images of identical bytes stay together, and each
    split gets its share of every label.

    Args:
        dataset: a dataset whose files have been read and hashed.
        fractions: shares of training, validation and test set; they add up to 1.
        seed: random seed of the assignment.

    Returns:
        The dataset with a split for every usable image.

    Raises:
        SettingError: invalid shares, a split in the data that leaks (the files are listed), or an empty split.

    Reference:
        Sechidis, Tsoumakas, Vlahavas. On the Stratification of Multi-label Data. ECML PKDD 2011 (here of patients).
    """
    if len(fractions) != 3 or not (min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-6):
        raise SettingError(f"fractions must be three shares above 0 that add up to 1; given: {tuple(fractions)}")
    split_names = {case.split for case in dataset.usable} - {""}
    if not split_names:
        shares = dict(zip(SPLITS, fractions, strict=True))
        result = _dealt(dataset, dataset.usable, shares, seed)
    else:
        _refuse_leaks(dataset.usable)
        result = dataset
        absent = {name: share for name, share in zip(SPLITS, fractions, strict=True) if name not in split_names}
        if absent and "train" in split_names:
            taken = {"train": fractions[0], **absent}
            shares = {name: share / sum(taken.values()) for name, share in taken.items()}
            result = _dealt(dataset, dataset.of("train"), shares, seed)
    _refuse_leaks(result.usable)
    empty = [name for name in SPLITS if not result.of(name)]
    if empty:
        patients = len({case.patient for case in result.usable})
        raise SettingError(
            f"nothing is left for {' and '.join(empty)}: {len(result.usable)} usable images of {patients} patients "
            f"in {dataset.path}; give more, or a split column with all of {', '.join(SPLITS)}"
        )
    return result


def _dealt(dataset: Dataset, cases: Sequence[Case], shares: Mapping[str, float], seed: int) -> Dataset:
    groups = _groups(cases)
    split_names = _deal([_counts(dataset, group) for group in groups], shares, seed=seed)
    names = {id(case): name for group, name in zip(groups, split_names, strict=True) for case in group}
    new_cases = [dataclasses.replace(e, split=names[id(e)]) if id(e) in names else e for e in dataset.cases]
    return dataclasses.replace(dataset, cases=tuple(new_cases))


def _groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Return groups of images that must stay together: those of one patient, and those of the same bytes, joined."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for case in cases:
        keys = [f"patient {case.patient}", *([f"bytes {case.sha256}"] if case.sha256 else [])]
        for key in keys:
            parent[root(key)] = root(keys[0])
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[root(f"patient {case.patient}")].append(case)
    return list(groups.values())


def _counts(dataset: Dataset, group: Sequence[Case]) -> Floats:
    """Count how often each label is present and absent in a group; counts of absence keep negative cases balanced."""
    truth = dataset.truth(group)
    return np.concatenate([(truth == 1).sum(0), (truth == 0).sum(0)]).astype(np.float64)


def _deal(counts: Sequence[Floats], shares: Mapping[str, float], *, seed: int) -> list[str]:
    """Assign groups to splits: repeatedly, the rarest label left goes to the split that lacks it most."""
    names, table = list(shares), np.array(counts)
    draw = np.random.default_rng(seed)
    needs = np.outer(list(shares.values()), table.sum(0))
    room = np.array(list(shares.values())) * len(table)
    choices = np.full(len(table), -1)
    order = draw.permutation(len(table))
    while (queue := order[choices[order] < 0]).size:
        totals = table[queue].sum(0)
        label = int(np.where(totals > 0, totals, np.inf).argmin())
        # The groups with most of the label first, since the last ones can no longer be balanced out.
        members = queue[table[queue, label] > 0]
        group = int(members[table[members, label].argmax()]) if members.size else int(queue[0])
        tie = draw.random(len(names))
        best = max(range(len(names)), key=lambda s: (needs[s, label], room[s], tie[s]))
        choices[group] = best
        needs[best] -= table[group]
        room[best] -= 1
    return [names[s] for s in choices]


def _refuse_leaks(cases: Sequence[Case]) -> None:
    """Raise an error if a patient or an image is in two splits."""
    leaks = []
    for kind in ("patient", "sha256"):
        first: dict[str, dict[str, str]] = defaultdict(dict)
        for case in cases:
            value = getattr(case, kind)
            if case.split and value:
                first[value].setdefault(case.split, case.image)
        for value, places in first.items():
            if len(places) > 1:
                where = " and ".join(f"{name} ({split})" for split, name in places.items())
                overlap = f"are of patient {value!r}" if kind == "patient" else "are the same bytes"
                leaks.append(f"{where} {overlap}")
    if leaks:
        remainder = f" (and {len(leaks) - _LISTED} more)" if len(leaks) > _LISTED else ""
        text = "; ".join(leaks[:_LISTED])
        raise SettingError(f"the splits leak: {text}{remainder}; put each patient and each image into one split")


def conflicts(dataset: Dataset) -> list[str]:
    """Return one sentence per image whose bytes equal another's with different labels."""
    first_cases: dict[str, Case] = {}
    sentences = []
    for case in dataset.usable:
        first_case = first_cases.setdefault(case.sha256, case)
        if case.sha256 and first_case.truth != case.truth:
            sentences.append(f"{first_case.image} and {case.image} are the same bytes with different labels")
    return sentences


def splits_of_files(folder: Path) -> dict[str, str]:
    """Return the split of each image of a training by the sha256 of its file; none if the folder is not of a training.

    Args:
        folder: output folder of a training.

    Raises:
        StoreError: its ``split.csv`` is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        header, *rows = (record.cells for record in read_records(path.read_text(encoding="utf-8")))
        split, sha256 = header.index("split"), header.index("sha256")
        return {row[sha256]: row[split] for row in rows if row[sha256]}
    except (OSError, ValueError, IndexError, DelimitedError) as fault:
        raise StoreError(f"{path} is damaged ({reason(fault)}): train the model again") from None


def write_split(dataset: Dataset, folder: Path) -> Path:
    """Write ``split.csv``: one row per image with its split, truth, sha256 and, if it is not used, the reason."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "patient", "split", *dataset.labels, "sha256", "problem"])
    for e in dataset.cases:
        truth = ["" if (value := e.truth[label]) is None else f"{value:d}" for label in dataset.labels]
        source = e.source if is_address(e.source) else str(Path(e.source).absolute())
        writer.writerow([source, e.patient, e.split, *truth, e.sha256, e.problem])
    path = folder / FILE
    write_atomically(path, lambda file: file.write(text.getvalue().encode("utf-8", "replace")))
    return path
