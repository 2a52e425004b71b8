"""Generated radiographs in the folders of the COVID-19 Radiography Database, to try the scripts without a download."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from camscope.phantoms.radiograph import phantom

FINDINGS = {"Normal": [], "COVID": ["Consolidation"], "Viral Pneumonia": ["Effusion"]}


def draw(folder: Path, *, images: int = 60, size: int = 128, classes: tuple[str, ...] = tuple(FINDINGS)) -> Path:
    """Draw ``CLASS/images`` and ``CLASS/masks`` (the lungs), with this number of images per class."""
    for number, label in enumerate(classes):
        for kind in ("images", "masks"):
            (folder / label / kind).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            made = phantom(10_000 * number + i, findings=FINDINGS[label], size=(size, size))
            name = f"{label}-{i + 1}.png"
            Image.fromarray(made.picture.rgb).save(folder / label / "images" / name)
            Image.fromarray(made.lung).save(folder / label / "masks" / name)
    return folder
