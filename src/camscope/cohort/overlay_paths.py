"""Build the paths of overlays in a study's folder."""

from __future__ import annotations

from collections.abc import Sequence

from camscope.naming import file_name, filled, fingerprint, unique_file_name

_TAKEN = ("rows", "private")  # reserved folders of the study


def picture_name(
    pattern: str, *, group: Sequence[str], patient: str, image: str, method: str, label: str, model: str
) -> str:
    """Return the relative path of an overlay; names from the data cannot lead out of the folder.

    Args:
        pattern: pattern with the fields group, patient, image, method, label, model in braces.
        group: groups of the case; each becomes a folder.
        patient: patient of the case.
        image: safe name of the case's image.
        method: the method.
        label: the explained label.
        model: name of the model.

    Returns:
        A path with "/" between the folders; folders with an empty name are left out.

    >>> pattern = "{group}/{patient}/{image}/{method}_{label}.jpg"
    >>> picture_name(pattern, group=["AP"], patient="../P1", image="x", method="cam", label="A", model="m")
    'AP/P1-.../x/cam_A.jpg'
    """
    fields = {
        "group": "/".join(unique_file_name(part) for part in group if part),
        "patient": unique_file_name(patient) if patient else "",
        "image": image,
        "method": file_name(method),
        "label": unique_file_name(label),
        "model": file_name(model),
    }
    first, *others = filled(pattern, fields).split("/")
    return "/".join([f"{first}-{fingerprint(first)}" if first in _TAKEN else first, *others])
