"""Build the paths of overlays in a study's folder."""

from __future__ import annotations

from collections.abc import Sequence

from camscope.naming import file_name, filled, fingerprint, unique_file_name

_TAKEN = ("rows", "private")  # reserved folders of the study


def picture_name(
    pattern: str,
    *,
    group: Sequence[str],
    patient: str,
    image: str,
    method: str,
    label: str,
    model: str,
    labels: Sequence[str] | None = None,
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
        labels: all labels of the study; a label has eight digits of its own only if the name of another is the same.
            None: if it has characters that no file name has.

    Returns:
        A path with "/" between the folders; folders with an empty name are left out.

    >>> pattern = "{group}/{patient}/{image}/{method}_{label}.jpg"
    >>> picture_name(pattern, group=["AP"], patient="../P1", image="x", method="cam", label="A", model="m")
    'AP/P1-.../x/cam_A.jpg'
    """
    label_name = file_name(label)
    is_alone = labels is not None and sum(file_name(one).lower() == label_name.lower() for one in labels) == 1
    fields = {
        "group": "/".join(unique_file_name(part) for part in group if part),
        "patient": unique_file_name(patient) if patient else "",
        "image": image,
        "method": file_name(method),
        "label": label_name if is_alone else unique_file_name(label),
        "model": file_name(model),
    }
    first, *others = filled(pattern, fields).split("/")
    return "/".join([f"{first}-{fingerprint(first)}" if first in _TAKEN else first, *others])
