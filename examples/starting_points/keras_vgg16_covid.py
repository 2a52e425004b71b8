"""A Keras VGG-16 that detects COVID in radiographs: train it, find its most certain false positive, see every layer.

    python examples/starting_points/keras_vgg16_covid.py OUT --data FOLDER_OF_CLASS_FOLDERS
    python examples/starting_points/keras_vgg16_covid.py OUT

Without ``--data``, generated radiographs are trained on. Writes the training report, ``model.keras`` for Keras, and for
the false positive: the maps of the predicted and of the true class, and ``layers.png``, the map at every convolution.
The same with commands: ``camscope train``, ``camscope failures`` and ``camscope layers --layers all``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported

from covid_folders import draw

import camscope as cs
from camscope.training.dataset import read_dataset
from camscope.training.evaluate import of_split, predict
from camscope.training.failures import explain_failures, find_failures
from camscope.training.fit import train
from camscope.training.init_model import start
from camscope.training.settings import TrainingSettings


def main(
    out: Path,
    data: Path | None = None,
    *,
    network: str = "keras:VGG16",
    weights: str = "default",
    epochs: int = 10,
    images: int = 60,
    input_size: int = 224,
) -> Path | None:
    """Train, find the most certain false positive, and explain it; return its file, or None if there is none."""
    dataset = read_dataset(data or draw(out / "data", images=images, classes=("Normal", "COVID")))
    begun = start(network, dataset, weights=weights, say=print, input_size=input_size)
    model, dataset = train(
        dataset, begun, out=out / "run", settings=TrainingSettings(epochs=epochs, batch_size=16), say=print
    )
    predictions = predict(model, of_split(dataset, "test"))
    mistakes = [f for f in find_failures(predictions) if f.kind == "false positive"]
    print(f"{len(mistakes)} false positives among {len(predictions.cases)} test images; {out / 'run' / 'report.html'}")
    if not mistakes:
        return None
    (mistake,) = explain_failures(predictions, mistakes[:1])
    failure = mistake.failure
    source = predictions.cases[failure.number].source
    print(f"{source}: {failure.said} (p = {failure.certainty:.3f}), but it is {failure.true}")
    for e in (mistake.said, mistake.true):
        e.save(out / "false_positive", files="{image}_{label}_{kind}.png", write="overlay,panel")
    cs.layers(model, source, layers="all", target=failure.said).save(out / "false_positive" / "layers.png")
    return Path(source)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--data", type=Path, help="folder of class folders")
    parser.add_argument("--weights", default="default", help="default (published), none (random), or a weights file")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    main(arguments.out, arguments.data, weights=arguments.weights, epochs=arguments.epochs)
