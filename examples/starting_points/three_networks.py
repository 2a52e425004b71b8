"""Xception, ResNet-50 and VGG-19 side by side on one image, with ImageNet labels.

    python examples/starting_points/three_networks.py OUT IMAGE

Writes ``side_by_side.png`` and one overlay per network, such as ``timm_legacy_xception_output.png``, and prints the
five highest classes of each network and how similar their maps are.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import camscope as cs

NETWORKS = ("timm:legacy_xception", "torchvision:resnet50", "torchvision:vgg19")


def main(
    out: Path, image: Path, *, networks: Sequence[str] = NETWORKS, weights: str = "default", target: str | None = None
) -> cs.Comparison:
    """Compare the networks on an image, for its predicted classes or for one target; write the files."""
    out.mkdir(parents=True, exist_ok=True)
    models = [cs.load(spec, weights=weights) for spec in networks]
    comparison = cs.compare(models, image, methods=["gradcam"], targets=target)
    comparison.sheet().save(out / "side_by_side.png")
    for (e,) in comparison.columns:
        e.save(out, files="{model}_output.png", write="overlay")
        print(f"{e.model}, layer {e.layer}:")
        for label, probability in e.top:
            print(f"  {probability:.3f}  {label}")
    for i, j in itertools.combinations(range(len(models)), 2):
        print(f"rank correlation of {models[i].name} and {models[j].name}: {comparison.spearman[i, j]:.2f}")
    return comparison


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the files")
    parser.add_argument("image", type=Path)
    parser.add_argument("--target", help="explain this class in all networks, such as 'tabby'")
    parser.add_argument("--weights", default="default", help="default (published) or none (random)")
    arguments = parser.parse_args()
    main(arguments.out, arguments.image, weights=arguments.weights, target=arguments.target)
