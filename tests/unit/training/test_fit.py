import dataclasses
import json

import polars as pl
import pytest
import torch

import camscope as cs
from camscope.errors import SettingError
from camscope.training.dataset import SPLITS, read_dataset
from camscope.training.fit import train
from camscope.training.settings import Settings
from camscope.training.start import start

QUICK = Settings(epochs=3, batch_size=8, fractions=(0.5, 0.25, 0.25))


def trained(folder, out, settings=QUICK, **more):
    data = more.pop("data", None) or read_dataset(folder)
    begun = start("timm:resnet10t", data, weights="none", input_size=32, seed=settings.seed)
    return train(data, begun, out=out, settings=settings, device="cpu", **more)


class Killed(BaseException):
    """As a signal would."""


def test_a_training_that_was_stopped_ends_as_one_that_was_not(class_folders, tmp_path):
    """And the same seed and data give the same weights at all."""
    folder = class_folders(12)
    torch.manual_seed(1)
    whole, _ = trained(folder, tmp_path / "whole")

    def kill(text):
        if text.startswith("epoch 3"):
            raise Killed

    torch.manual_seed(2)
    with pytest.raises(Killed):
        trained(folder, tmp_path / "stopped", say=kill)
    assert not (tmp_path / "stopped/model.json").exists()
    said = []
    resumed, _ = trained(folder, tmp_path / "stopped", say=said.append)
    assert "going on after epoch 2" in said
    assert [text[:7] for text in said].count("epoch 3") == 1
    assert resumed.digest == whole.digest
    for name in ("history.csv", "metrics.json", "predictions.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again, _ = trained(folder, tmp_path / "stopped", say=said.append)
    assert again.digest == whole.digest
    assert said[-1] == "going on after epoch 3"


def test_the_folder_is_a_model_with_its_record(class_folders, tmp_path):
    folder = class_folders(9, names=("cat", "dog", "eel"))
    (folder / "eel/0.png").write_bytes(b"damaged")
    said = []
    model, data = trained(folder, tmp_path / "run", dataclasses.replace(QUICK, epochs=1), say=said.append)
    assert [text for text in said if "eel/0.png" in text] == [f"not used: eel/0.png: {data.examples[18].problem}"]
    loaded = cs.load(tmp_path / "run")
    assert loaded.digest == model.digest
    assert loaded.labels == ("cat", "dog", "eel")
    assert loaded.preprocess == model.preprocess
    facts = loaded.facts
    assert facts["test"]["pictures"] == len(data.of("test"))
    assert facts["training"]["start"] == "random weights"
    assert sum(facts["training"]["splits"][name]["pictures"] for name in SPLITS) == 26
    rows = pl.read_csv(tmp_path / "run/split.csv")
    assert len(rows) == 27
    assert rows["problem"].drop_nulls().len() == 1
    assert cs.explain(loaded, folder / "cat/1.png").label in loaded.labels
    assert (tmp_path / "run/maps/epoch_001.png").is_file()
    assert list((tmp_path / "run/logs").glob("events.*"))
    with pytest.raises(SettingError, match=r"holds another training .*seed was 0, is 5"):
        trained(folder, tmp_path / "run", dataclasses.replace(QUICK, epochs=1, seed=5))


def test_labels_that_are_there_or_not_some_unknown(table, tmp_path):
    rows = [
        {"patient": f"P{n // 2}", "a": int(n % 3 == 0), "b": "" if n % 5 == 4 else int(n % 3 == 1)} for n in range(36)
    ]
    data = read_dataset(table(rows))
    settings = dataclasses.replace(QUICK, epochs=1, hide=("border:0.1",))
    model, used = trained(None, tmp_path / "run", settings, data=data)
    assert (model.outcome, model.labels) == ("any", ("a", "b"))
    assert json.loads((tmp_path / "run/metrics.json").read_text())["labels"]["b"]["present"] >= 0
    patients = {e.patient: e.split for e in used.examples}
    assert all(patients[e.patient] == e.split for e in used.examples)
    with pytest.raises(SettingError, match="belongs to one label"):
        trained(None, tmp_path / "other", dataclasses.replace(settings, reasons="mask"), data=data)


def test_a_backbone_that_has_learnt_is_frozen_first(class_folders, tmp_path):
    data = read_dataset(class_folders(8))
    begun = start("timm:resnet10t", data, weights="none", input_size=32)
    before = {name: value.clone() for name, value in begun.model.net.state_dict().items()}
    settings = dataclasses.replace(QUICK, epochs=2, frozen=1)
    seen = []

    def look(text):
        if text.startswith("epoch"):
            seen.append(changed(begun.model.net, before))

    learnt = dataclasses.replace(begun, learnt=True)
    model, _ = train(data, learnt, out=tmp_path / "run", settings=settings, device="cpu", say=look)
    assert seen[0] == {"fc"}
    assert "layer1" in seen[1]
    assert all(p.requires_grad for p in model.net.parameters())
    assert torch.equal(model.net.state_dict()["bn1.running_mean"].cpu(), before["bn1.running_mean"])


def changed(net, before):
    return {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


def test_right_reasons_draw_the_map_into_the_mask(table, tmp_path):
    """The square tells the label; the mask names another place, and the map must follow."""
    rows = [{"there": int(n % 3 == 0), "mask": "20,2,34,30" if n % 3 == 0 else ""} for n in range(30)]
    data = read_dataset(table(rows), labels=["there"])
    shares = {}
    for weight in (0.0, 5.0):
        begun = start("timm:resnet10t", data, weights="none", input_size=48, fit="squash", options={"output_stride": 8})
        settings = dataclasses.replace(QUICK, epochs=6, patience=6, rate=3e-3, reasons="mask", reasons_weight=weight)
        train(data, begun, out=tmp_path / str(weight), settings=settings, device="cpu")
        # The last epoch, whatever its validation loss: the penalty is no part of that.
        last = torch.load(tmp_path / str(weight) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        net = {name.removeprefix("net."): value for name, value in last.items() if name.startswith("net.")}
        begun.model.net.load_state_dict(net)
        shares[weight] = outside(begun.model, data.examples[::3])
    assert shares[5.0] < shares[0.0] - 0.15


def outside(model, examples):
    found = []
    for e in examples:
        heat = cs.explain(model, e.source, target=0).heatmap
        found.append(1 - heat[2:30, 20:34].sum() / heat.sum() if heat.any() else 1.0)
    return sum(found) / len(found)
