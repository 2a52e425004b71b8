"""Where the overlay of a map lies in a study's folder."""

from __future__ import annotations

from collections.abc import Sequence

from camscope.naming import file_name, fingerprint, unique_file_name

_MOST_BYTES = 200
_TAKEN = ("rows", "private")  # the study's own folders


def picture_name(
    pattern: str, *, group: Sequence[str], patient: str, image: str, method: str, label: str, model: str
) -> str:
    """Return the relative path of an overlay; what comes from others cannot lead out of the folder.

    Args:
        pattern: with the fields group, patient, image, method, label, model in braces.
        group: of the case; each is a folder.
        patient: of the case.
        image: the name of the case's image, a harmless one already.
        method: by which method.
        label: what is explained.
        model: by which model.

    Returns:
        A path with "/" between the folders; a folder that would have no name is left out.

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
    """Return a name that every file system takes, and that is still one of its own."""
    if len(part.encode("utf-8", "replace")) <= _MOST_BYTES:
        return part
    stem, dot, suffix = part.rpartition(".")
    beginning = (stem if dot else part).encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    return f"{beginning}-{fingerprint(part)}{dot}{suffix if dot else ''}"
