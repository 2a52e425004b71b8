"""Build the paths of overlays in a study's folder."""

from __future__ import annotations

from collections.abc import Sequence

from camscope.naming import file_name, fingerprint, unique_file_name

_MOST_BYTES = 200
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
    parts = [_shortened(part) for part in pattern.format(**fields).split("/") if part.strip(".")]
    if parts[0] in _TAKEN:
        parts[0] += f"-{fingerprint(parts[0])}"
    return "/".join(parts)


def _shortened(part: str) -> str:
    """Return a unique name that every file system accepts."""
    if len(part.encode("utf-8", "replace")) <= _MOST_BYTES:
        return part
    stem, dot, suffix = part.rpartition(".")
    beginning = (stem if dot else part).encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    return f"{beginning}-{fingerprint(part)}{dot}{suffix if dot else ''}"
