import dataclasses
import errno
import json
import os
import shutil
import signal

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import camscope as cs
from camscope.errors import SettingError, StoreError, TerminatedError
from camscope.training.dataset import SPLITS, read_dataset
from camscope.training.fit import RECORD, _same_training, train
from camscope.training.init_model import start
from camscope.training.settings import TrainingSettings

QUICK = TrainingSettings(epochs=3, batch_size=8, fractions=(0.5, 0.25, 0.25))


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
    assert [text for text in said if "eel/0.png" in text] == [f"not used: eel/0.png: {data.cases[18].problem}"]
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


def test_a_setting_that_this_version_does_not_have_makes_another_training(tmp_path):
    identity = {"data_sha256": "a", "settings": {"seed": 0}}
    _same_training(tmp_path, identity)
    _same_training(tmp_path, identity)
    record = identity | {"settings": {"seed": 0, "mixup": 0.2}}
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(SettingError, match=r"holds another training .*mixup was 0.2, is None"):
        _same_training(tmp_path, identity)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{", '{"settings": 1}'])
def test_a_record_that_is_no_object_is_another_training(tmp_path, content):
    _same_training(tmp_path, {"data_sha256": "a", "settings": {"seed": 0}})
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(SettingError, match="holds another training"):
        _same_training(tmp_path, {"data_sha256": "a", "settings": {"seed": 0}})


def test_labels_that_are_there_or_not_some_unknown(table, tmp_path):
    rows = [
        {"patient": f"P{n // 2}", "a": int(n % 3 == 0), "b": "" if n % 5 == 4 else int(n % 3 == 1)} for n in range(36)
    ]
    data = read_dataset(table(rows))
    settings = dataclasses.replace(QUICK, epochs=1, hide=("border:0.1",))
    model, used = trained(None, tmp_path / "run", settings, data=data)
    assert (model.outcome, model.labels) == ("any", ("a", "b"))
    assert json.loads((tmp_path / "run/metrics.json").read_text())["labels"]["b"]["present"] >= 0
    patients = {e.patient: e.split for e in used.cases}
    assert all(patients[e.patient] == e.split for e in used.cases)
    with pytest.raises(SettingError, match="belongs to one label"):
        trained(None, tmp_path / "other", dataclasses.replace(settings, reasons="mask"), data=data)


@pytest.mark.parametrize("guard", [{"exchange": ("border:0.1", "contrast")}, {"balance": "cue"}, {"group_dro": "cue"}])
def test_a_training_against_a_shortcut_resumes_and_is_recorded(table, tmp_path, guard):
    rows = [{"patient": n, "there": n % 2, "cue": n // 2 % 2} for n in range(32)]
    data = read_dataset(table(rows), labels=["there"], cue="cue")
    settings = dataclasses.replace(QUICK, epochs=2, **guard)
    whole, _ = trained(None, tmp_path / "whole", settings, data=data)

    def kill(text):
        if text.startswith("epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        trained(None, tmp_path / "stopped", settings, data=data, say=kill)
    said = []
    resumed, _ = trained(None, tmp_path / "stopped", settings, data=data, say=said.append)
    assert "going on after epoch 1" in said
    assert resumed.digest == whole.digest
    name, value = next(iter(guard.items()))
    with pytest.raises(SettingError, match=f"holds another training .*{name} was"):
        trained(None, tmp_path / "whole", dataclasses.replace(QUICK, epochs=2), data=data)
    page = (tmp_path / "whole/report.html").read_text()
    assert "This does not show that a shortcut was removed" in page
    facts = whole.facts["training"]
    assert facts["settings"][name] == (list(value) if name == "exchange" else value)
    if name == "exchange":
        assert "Taken from another image in every training and validation image: border:0.1, contrast." in page
    else:
        assert sum(facts["groups"].values()) == facts["splits"]["train"]["pictures"]
        assert f"there present, cue = 1: {facts['groups']['there present, cue = 1']}" in page
        flipped_cue = table([row | {"cue": 1 - row["cue"]} for row in rows])
        changed = read_dataset(flipped_cue, labels=["there"], cue="cue")
        with pytest.raises(SettingError, match="data_sha256"):
            trained(None, tmp_path / "whole", settings, data=changed)


def test_group_dro_weights_are_those_of_the_losses(table, tmp_path):
    rows = [{"patient": n, "there": n % 2, "cue": n // 2 % 2} for n in range(32)]
    data = read_dataset(table(rows), labels=["there"], cue="cue")
    trained(None, tmp_path / "run", dataclasses.replace(QUICK, epochs=1, group_dro="cue"), data=data)
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = last["group_loss.weights"]
    assert weights.sum().item() == pytest.approx(1)
    assert weights.unique().numel() == 4


def test_what_cannot_train_against_a_shortcut_is_an_error(table, tmp_path):
    rows = [{"patient": n, "there": n % 2, "cue": n % 2, "box": ""} for n in range(32)]
    data = read_dataset(table(rows), labels=["there"], cue="cue")
    with pytest.raises(SettingError, match="no training image has there absent, cue = 1"):
        trained(None, tmp_path / "a", dataclasses.replace(QUICK, balance="cue"), data=data)
    with pytest.raises(SettingError, match="no training image has the region 'cue:box'"):
        trained(None, tmp_path / "b", dataclasses.replace(QUICK, exchange=("cue:box",)), data=data)
    with pytest.raises(SettingError, match="leave balance out"):
        TrainingSettings(balance="cue", group_dro="cue")
    assert not (tmp_path / "a").exists()


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
        shares[weight] = outside(begun.model, data.cases[::3])
    assert shares[5.0] < shares[0.0] - 0.15


def outside(model, examples):
    found = []
    for e in examples:
        heat = cs.explain(model, e.source, target=0).heatmap
        found.append(1 - heat[2:30, 20:34].sum() / heat.sum() if heat.any() else 1.0)
    return sum(found) / len(found)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Images, a training of them, and the same stopped in its third epoch."""
    place = tmp_path_factory.mktemp("trainings")
    for c, name in enumerate(("cat", "dog")):
        (place / "data" / name).mkdir(parents=True)
        for n in range(12):
            pixels = np.random.default_rng([c, n]).integers(0, 90, (32, 36), np.uint8)
            pixels[2 + 10 * c : 10 + 10 * c, 6:14] += 130
            Image.fromarray(pixels).save(place / "data" / name / f"{n}.png")
    whole, _ = trained(place / "data", place / "whole")

    def kill(text):
        if text.startswith("epoch 3"):
            raise Killed

    with pytest.raises(Killed):
        trained(place / "data", place / "stopped", say=kill)
    return place, whole


@pytest.fixture
def stopped(trainings, tmp_path):
    """The images, a copy of the stopped training, and what it would have become."""
    place, whole = trainings
    shutil.copytree(place / "stopped", tmp_path / "stopped")
    return place / "data", tmp_path / "stopped", whole


@pytest.mark.parametrize(
    ("damage", "names"),
    [(cut, ["last"]), (emptied, ["last"]), (flipped, ["last"]), (flipped, ["best"]), (cut, ["last", "best"])],
)
def test_damaged_checkpoints_are_passed_over_with_a_note(stopped, damage, names):
    folder, out, whole = stopped
    for name in names:
        damage(out / f"checkpoints/{name}.ckpt")
    said = []
    resumed, _ = trained(folder, out, say=said.append)
    for name in names:
        assert sum(f"{name}.ckpt is damaged and passed over" in text for text in said) == 1
    assert ("going on after epoch" in " ".join(said)) == ("best" not in names)
    assert resumed.digest == whole.digest
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_that_was_moved_goes_on(trainings, tmp_path, finished):
    place, whole = trainings
    name = "whole" if finished else "stopped"
    shutil.copytree(place / name, tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    (place / name).rename(place / "away")
    try:
        resumed, _ = trained(place / "data", tmp_path / "copy")
    finally:
        (place / "away").rename(place / name)
    assert resumed.digest == whole.digest


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, TerminatedError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_stops_a_training_that_can_go_on(stopped, tmp_path, number, error):
    folder, _, whole = stopped
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def send(text):
        if text.startswith("epoch 2"):
            signal.getsignal(number)(number, None)  # not by the system: other tests' libraries handle signals too

    with pytest.raises(error):
        trained(folder, tmp_path / "out", say=send)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "out/model.json").exists()
    said = []
    resumed, _ = trained(folder, tmp_path / "out", say=said.append)
    assert any(text.startswith("going on after epoch") for text in said)
    assert resumed.digest == whole.digest


def test_a_disk_that_fills_up_is_one_sentence(class_folders, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(text):
        if text.startswith("epoch 1"):
            monkeypatch.setattr(os, "fsync", full)

    folder = class_folders(12)
    with pytest.raises(StoreError, match=r"cannot write .*: No space left on device"):
        trained(folder, tmp_path / "out", say=fill)
    monkeypatch.undo()
    said = []
    trained(folder, tmp_path / "out", say=said.append)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_folder_of_others_is_refused_before_anything_is_written(class_folders, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.json").write_text("mine")
    with pytest.raises(StoreError, match="is not empty, and not a folder of a training"):
        trained(class_folders(8), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.json"]
