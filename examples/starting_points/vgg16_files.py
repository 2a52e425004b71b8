"""VGG-16 in PyTorch: four files per image, display scales and layers compared, in batches.

    python examples/starting_points/vgg16_files.py OUT IMAGE [IMAGE ...]

Writes for each image original, grayscale, heatmap and overlay, such as ``cat_overlay.png``; ``scales.png``, the map of
each image under every display scale; and ``layers.png``, the map of the first image at every convolution.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import camscope as cs
from camscope.gallery import MapFolder
from camscope.render import Cell, sheet

SCALES = {
    "minmax": "minmax: lowest value blue, highest red",
    "max": "max: zero blue, highest value red",
    "percentile": "percentile: the lowest and highest 1 % cut off",
}


def main(out: Path, images: Sequence[Path], *, weights: str = "default") -> list[Path]:
    """Write all files; return the paths of those of the images."""
    model = cs.load("torchvision:vgg16", weights=weights)
    written, rows = [], []
    explanations = list(cs.explain_all(model, list(images), methods="gradcam", targets="top1", batch_size=8))
    # One scale for all images: colours can be compared, and an image with little heat stays blue.
    common = f"fixed:0,{max(float(e.heatmap.max()) for e in explanations):.3g}"
    folder = MapFolder(out, files="{image}_{kind}.png", write="original,grayscale,heatmap,overlay")
    for e in explanations:
        written += folder.save(e).values()  # never replaces the files of another image with this name
        print(f"{e.source}: {e.label} ({e.certainty}), layer {e.layer}", *e.notes, sep="\n  ")
        rows.append([Cell(e.overlay(scale=scale), e.short_label) for scale in (*SCALES, common)])
    headings = [*SCALES.values(), f"{common}: the same colours for all images"]
    sheet(rows, column_headings=headings, title="One map, four display scales").save(out / "scales.png")
    folder.finish()
    cs.layers(model, images[0], layers="all").save(out / "layers.png")
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the files")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--weights", default="default", help="default (published), none (random), or a weights file")
    arguments = parser.parse_args()
    main(arguments.out, arguments.images, weights=arguments.weights)
