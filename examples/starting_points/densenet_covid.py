"""DenseNet-121, trained on the folders of the COVID-19 Radiography Database: samples, confusion matrix and maps.

    python examples/starting_points/densenet_covid.py OUT --data COVID-19_Radiography_Dataset
    python examples/starting_points/densenet_covid.py OUT

Without ``--data``, generated radiographs are trained on. Writes ``samples.png``, ``samples_batch.png``,
``confusion_matrix.png``, ``report.html`` and the model to OUT/run, and maps of test images to OUT/maps. The same with
commands: ``camscope train DATA --model torchvision:densenet121 --out run`` and ``camscope explain IMAGES --model run``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from covid_folders import draw

import camscope as cs
from camscope.gallery import MapFolder
from camscope.training.dataset import read_dataset
from camscope.training.evaluate import of_split
from camscope.training.fit import train
from camscope.training.init_model import start
from camscope.training.settings import TrainingSettings

SHOWN = 8


def main(
    out: Path,
    data: Path | None = None,
    *,
    network: str = "torchvision:densenet121",
    weights: str = "default",
    epochs: int = 10,
    images: int = 60,
    input_size: int = 224,
) -> float:
    """Train, evaluate and explain; return the accuracy on the test images."""
    dataset = read_dataset(data or draw(out / "data", images=images))
    begun = start(network, dataset, weights=weights, say=print, input_size=input_size)
    model, dataset = train(
        dataset, begun, out=out / "run", settings=TrainingSettings(epochs=epochs, batch_size=16), say=print
    )
    test = of_split(dataset, "test")[:SHOWN]
    folder = MapFolder(out / "maps", files="{image}_{label}_{kind}.png", write="original,heatmap,overlay,panel")
    for case, e in zip(test, cs.explain_all(model, [case.source for case in test], targets="top1"), strict=True):
        truth = next(label for label, present in case.truth.items() if present)
        print(f"{Path(case.source).name}: {e.label} ({e.certainty}), truth {truth}")
        folder.save(e, truth)  # one folder per class, in which another image of the same name replaces nothing
    folder.finish()
    accuracy: float = model.facts["test"]["accuracy"]["estimate"]
    print(f"accuracy {accuracy:.2f} on {len(of_split(dataset, 'test'))} test images; {out / 'run' / 'report.html'}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--data", type=Path, help="folder of class folders")
    parser.add_argument("--weights", default="default", help="default (published), none (random), or a weights file")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    main(arguments.out, arguments.data, weights=arguments.weights, epochs=arguments.epochs)
