"""Define the case: one row of a cohort, shared by study, evaluation, training and audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from camscope.array_types import Mask
from camscope.cohort.annotations import annotation_content, read_annotation
from camscope.errors import AnnotationError


@dataclass(frozen=True)
class Case:
    """One row of a cohort: an image with its patient, labels, masks and cues.

    Attributes:
        number: index of the row, from 0.
        line: line of the table, from 1; for files without lines the number of the row, from 1; 0 for a folder.
        image: name of the image in the data.
        source: path or address of the image.
        patient: name of the patient; the name of the image if unknown; "" if the header may have the patient.
        group: groups of the case, such as ("AP",).
        name: name of the image in file names, so that the overlays of different cases have different names.
        truth: label -> present or not; None if unknown.
        masks: name of a mask -> cell with a mask file, boxes or run lengths (`read_annotation`); blank cells are left
            out. The mask of a label is called "label:NAME", the mask of a cue "cue:NAME".
        root: folder or address to which files in ``masks`` are relative.
        cues: name of a cue -> present or not; None if unknown.
        strata: column -> cell.
        target: class to explain, by name or index; "" for the predicted class.
        split: "train", "val" or "test"; "" for none.
        sha256: hash of the image file; "" before the file is read.
        problems: label -> why the case cannot be used for the label; "" -> why the whole case cannot be used.
    """

    number: int
    line: int
    image: str
    source: str
    patient: str
    group: tuple[str, ...] = ()
    name: str = ""
    truth: Mapping[str, bool | None] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    root: str = ""
    cues: Mapping[str, bool | None] = field(default_factory=dict)
    strata: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    split: str = ""
    sha256: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """Return why the whole case cannot be used; "" if it can."""
        return self.problems.get("", "")

    def mask(self, name: str, size: tuple[int, int]) -> Mask:
        """Read a mask by its name, (H, W) of the image's ``size``.

        Raises:
            AnnotationError: the cell or file cannot be read.
        """
        return read_annotation(self.masks[name], size, root=self.root)

    def annotation(self, size: tuple[int, int]) -> Mask | None:
        """Read the union of all masks, (H, W) of the image's ``size``; None if there are none.

        Raises:
            AnnotationError: a cell or file cannot be read, or the masks cover no pixel.
        """
        if not self.masks:
            return None
        union = np.logical_or.reduce([self.mask(name, size) for name in self.masks])
        if not union.any():
            raise AnnotationError(f"the annotation of {self.image!r} covers no pixel: leave its cell blank")
        return np.asarray(union)

    def mask_content(self, name: str) -> str:
        """Return the identity of a mask for a key; see `annotation_content`.

        Raises:
            PictureError: the file of the mask cannot be read.
        """
        return annotation_content(self.masks[name], self.root)
