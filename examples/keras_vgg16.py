"""A VGG trained in Keras on chest phantoms of four classes: what does it look at?

    python examples/keras_vgg16.py DIR

The network is VGG-16 in small: the blocks, names and order of its layers, with narrow ones. It is trained for a
moment, saved as ``DIR/vgg.keras``, and each class is explained on patients that it has not seen: some of them one by
one, and others as a cohort, in ``DIR/study.toml``.
"""

import csv
import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported; camscope needs it

import keras
import numpy as np
from keras import layers
from PIL import Image

import camscope as cs
from camscope.phantoms.radiograph import Phantom, phantom

CLASSES = ("Normal", "Cardiomegaly", "Consolidation", "Effusion")
BLOCKS = ((2, 8), (2, 16), (3, 32), (3, 32))  # convolutions and channels
SIZE = (96, 96)


def draw(seed: int, label: str) -> Phantom:
    """A patient, with the finding or without any."""
    return phantom(seed, findings=[label] if label in CLASSES[1:] else [], size=SIZE)


def vgg() -> keras.Model:
    """Blocks of 3 x 3 convolutions with ReLU, each followed by max-pooling; then two dense layers."""
    picture = x = keras.Input((*SIZE, 1))
    for block, (convolutions, channels) in enumerate(BLOCKS, start=1):
        for one in range(1, convolutions + 1):
            name = f"block{block}_conv{one}"
            he = keras.initializers.HeNormal(seed=one)
            x = layers.Conv2D(channels, 3, padding="same", activation="relu", kernel_initializer=he, name=name)(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = layers.Dense(64, activation="relu", name="fc1")(layers.Flatten()(x))
    return keras.Model(picture, layers.Dense(len(CLASSES), activation="softmax", name="predictions")(x))


def train(path: Path, *, patients: int = 60, epochs: int = 15) -> float:
    """Train on patients of each class, save the model, and return its accuracy on half as many others."""
    keras.utils.set_random_seed(0)
    made = [(draw(seed, label), i) for seed in range(patients * 3 // 2) for i, label in enumerate(CLASSES)]
    x, y = np.stack([one.picture.pixels for one, _ in made]), np.array([i for _, i in made])
    seen = patients * len(CLASSES)
    model = vgg()
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:seen], y[:seen], batch_size=16, epochs=epochs, verbose=0)
    model.save(path)
    return float(model.evaluate(x[seen:], y[seen:], verbose=0)[1])


def explain(path: Path, folder: Path) -> dict[str, float]:
    """Explain new patients of each class, and say which share of the heat lies on the finding."""
    # The images went in as they are, with pixels in [0, 1]. HiResCAM, since the dense layers weigh each place in a
    # way of its own, and Grad-CAM would take the mean of these weights.
    model = cs.load(path, labels=list(CLASSES), mean=[0], std=[1])
    shares = {}
    for label in CLASSES[1:]:
        made = [draw(seed, label) for seed in range(1000, 1008)]
        found = [cs.explain(model, one.picture, method="hirescam", target=label) for one in made]
        best = max(found, key=lambda e: e.probability)
        best.save(folder / label)
        masks = np.stack([one.masks[label] for one in made])
        heat = np.stack([one.heatmap for one in found])
        shares[label] = float(heat[masks].sum() / heat.sum())
        print(f"{label}: {shares[label]:.1%} of the heat of {best.layer} is on it, {masks.mean():.1%} of the image")
    return shares


STUDY = """\
[cohort]
table = "cohort.csv"
patient = "patient"

[explain]
methods = ["hirescam"]
"""

LABEL = """
[labels.{label}]
column = "{label}"
mask = "{label} mask"
class = "{label}"
model = {{ spec = "vgg.keras", labels = {labels}, mean = [0], std = [1] }}
"""


def study(folder: Path, *, patients: int = 8) -> dict[str, float]:
    """Explain a cohort with that model; of each finding the mean enrichment on its mask, where 1 is chance."""
    (folder / "pictures").mkdir(exist_ok=True)
    findings = CLASSES[1:]
    rows = []
    for seed in range(2000, 2000 + patients * len(CLASSES)):
        label = CLASSES[seed % len(CLASSES)]
        one, name = draw(seed, label), f"pictures/{seed}.png"
        Image.fromarray(one.picture.rgb).save(folder / name)
        row = {"path": name, "patient": f"P{seed}"}
        for other in findings:
            row |= {other: str(int(other == label)), f"{other} mask": ""}
        if label in findings:
            row[f"{label} mask"] = f"pictures/{seed}_mask.png"
            Image.fromarray(one.masks[label]).save(folder / row[f"{label} mask"])
        rows.append(row)
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    labels = "".join(LABEL.format(label=label, labels=list(CLASSES)) for label in findings)
    (folder / "study.toml").write_text(STUDY + labels, encoding="utf-8")
    found: dict[str, list[float]] = {label: [] for label in findings}
    for row in cs.run(cs.Study.read(folder / "study.toml"), folder / "results"):
        if row["status"] == "ok" and row["enrichment:mask:label"] is not None:
            found[row["label"]].append(row["enrichment:mask:label"])
    means = {label: float(np.mean(values)) for label, values in found.items()}
    for label, mean in means.items():
        print(f"{label}: {mean:.1f} times as much heat on it as by chance, in {len(found[label])} patients")
    return means


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    print(f"accuracy on new patients: {train(out / 'vgg.keras'):.2f} (chance {1 / len(CLASSES):.2f})")
    explain(out / "vgg.keras", out)
    study(out)
