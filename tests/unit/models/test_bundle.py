import dataclasses
import json

import pytest
import torch

from camscope.errors import ModelError, SettingError, StoreError
from camscope.models.loading import load


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = load(
        "timm:test_resnet",
        weights="none",
        labels=["cat", "Katze, große"],
        outcome="any",
        mean=[0.5],
        std=[0.25],
        input_size=(64, 96),
        fit="pad",
        options={"in_chans": 1},
    )
    return dataclasses.replace(made, name="mine", layer="layer4", facts={"auc": 0.9})


def test_round_trip(model, tmp_path):
    assert model.save(tmp_path / "a" / "bundle") == tmp_path / "a" / "bundle"
    assert sorted(p.name for p in (tmp_path / "a" / "bundle").iterdir()) == ["model.json", "weights.safetensors"]
    again = load(tmp_path / "a" / "bundle")
    for field in ("name", "preprocess", "labels", "layer", "outcome", "facts", "digest"):
        assert getattr(again, field) == getattr(model, field), field
    x = torch.rand(2, 1, 64, 96)
    with torch.inference_mode():
        assert torch.equal(again.net(x), model.net(x))
    assert again.recipe.classes == 2
    assert len(again.recipe.sha256) == 64


@pytest.mark.parametrize("spec", ["timm:test_vit", "torchvision:mnasnet0_5", "torchvision:googlenet"])
def test_round_trip_of_other_kinds(spec, tmp_path):
    size = (64, 64) if spec.startswith("timm") else (96, 96)
    model = load(spec, weights="none", classes=3, input_size=size)
    again = load(model.save(tmp_path))
    assert (again.digest, again.preprocess) == (model.digest, model.preprocess)
    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        assert torch.equal(again.net(x), model.net(x))


def test_the_card_says_what_it_is_made_of(model, tmp_path):
    card = json.loads((model.save(tmp_path) / "model.json").read_text(encoding="utf-8"))
    assert card["format"] == 1
    assert (card["spec"], card["classes"], card["options"]) == ("timm:test_resnet", 2, {"in_chans": 1})
    assert card["versions"].keys() == {"camscope", "torch", "timm"}
    assert card["labels"] == ["cat", "Katze, große"]


def test_settings_of_the_caller_win(model, tmp_path):
    again = load(model.save(tmp_path), labels=["a", "b"], outcome="one", input_size=(128, 192), fit="squash")
    assert (again.labels, again.outcome) == (("a", "b"), "one")
    assert (again.preprocess.input_size, again.preprocess.fit) == ((128, 192), "squash")
    assert again.preprocess.mean == model.preprocess.mean


@pytest.mark.parametrize("given", [{"weights": "none"}, {"classes": 2}, {"options": {"a": 1}}, {"arch": "timm:x"}])
def test_what_a_bundle_fixes_cannot_be_given(model, tmp_path, given):
    with pytest.raises(SettingError, match="is a bundle and has its own"):
        load(model.save(tmp_path), **given)


def test_saving_again_replaces(model, tmp_path):
    model.save(tmp_path)
    dataclasses.replace(model, name="other").save(tmp_path)
    assert load(tmp_path).name == "other"
    assert len(list(tmp_path.iterdir())) == 2


def test_changed_weights(model, tmp_path):
    path = model.save(tmp_path) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="sha256 differs"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"lacks weights\.safetensors"):
        load(tmp_path)


def changed(**more):
    return lambda card: json.dumps({**card, **more})


DAMAGED = {
    "no JSON": (lambda card: json.dumps(card)[:-5], r"model\.json is damaged .*make the bundle again"),
    "no object": (lambda card: "[]", "states no format"),
    "another format": (changed(format=2), "format 2 and this camscope reads 1: update camscope"),
    "a field gone": (lambda card: json.dumps({k: v for k, v in card.items() if k != "spec"}), r"wrong kind: spec\)"),
    "a field wrong": (changed(labels="cat", classes="2"), r"wrong kind: classes, labels\)"),
    "preprocess": (changed(preprocess={"fit": "no"}), "preprocess cannot be read"),
    "outcome": (changed(outcome="none"), "outcome cannot be 'none'"),
    "labels": (changed(labels=["cat"]), "1 labels for a network with 2 classes"),
    "classes": (changed(classes=3, labels=[]), "pass classes=2"),
    "source": (changed(spec="tim:test_resnet"), "no model source called 'tim'"),
    "reserved": (changed(options={"checkpoint_path": "x.pth"}), "checkpoint_path is not for options"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_card(model, tmp_path, how):
    change, message = DAMAGED[how]
    path = model.save(tmp_path) / "model.json"
    path.write_text(change(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises((ModelError, SettingError), match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_folders_that_are_none(model, tmp_path):
    with pytest.raises(ModelError, match=r"is not a bundle: it has no model\.json"):
        load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file: a bundle is a folder"):
        model.save(tmp_path / "file")


def test_nothing_is_left_of_a_bundle_that_failed(model, tmp_path, monkeypatch):
    bad = dataclasses.replace(model, facts={"auc": torch.ones(1)})
    with pytest.raises(ModelError, match=r"model\.json cannot hold it"):
        bad.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    model.save(tmp_path / "good")
    before = load(tmp_path / "good").digest

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("camscope.models.bundle.file_sha256", full)
    with pytest.raises(StoreError, match="no space"):
        model.save(tmp_path / "good")
    monkeypatch.undo()
    assert load(tmp_path / "good").digest == before
    assert len(list((tmp_path / "good").iterdir())) == 2


def test_a_bundle_is_called_by_its_folder_or_by_the_name_it_was_given(tmp_path):
    model = load("timm:test_resnet", weights="none", labels=["a", "b"])
    assert load(model.save(tmp_path / "my effusion net")).name == "my effusion net"
    named = dataclasses.replace(model, name="fold 3")
    assert load(named.save(tmp_path / "x")).name == "fold 3"
