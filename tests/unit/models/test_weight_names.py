import pytest
import timm
import torch
from torch import nn

from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.models.weight_names import ALL, KeyFilter, match
from camscope.models.weights import fill

ARCH = "timm:test_resnet"


def trained(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=5).state_dict()


STATE, OTHER = trained(0), trained(1)


def under(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


def filled(state, keys=ALL):
    net = timm.create_model("test_resnet", num_classes=5)
    return net, fill(net, state, keys=keys)


def is_(net, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


PREFIXED = {
    "any word": under("encoder."),
    "several": under("state.module.student.backbone."),
    "a part in DataParallel": {k.replace("layer1.", "layer1.module."): v for k, v in STATE.items()},
    "compiled inside": under("net._orig_mod."),
    "the head beside the backbone": {("" if "fc" in k else "features.") + k: v for k, v in STATE.items()},
    "an average alone": under("ema."),
}


@pytest.mark.parametrize("name", PREFIXED)
def test_prefixes_are_found_without_a_word(name):
    net, facts = filled(PREFIXED[name])
    assert is_(net, STATE)
    assert facts == {}


LEFT_OVER = {
    "loss": ({**under("model."), "criterion.pos_weight": torch.ones(5)}, "criterion.pos_weight"),
    "metric": ({**under("model."), "val_auc.confmat": torch.zeros(5, 2)}, "val_auc.confmat"),
    "counter": (torch.optim.swa_utils.AveragedModel(nn.ModuleDict()).state_dict() | under("module."), "n_averaged"),
    "auxiliary head": ({**STATE, "aux.0.weight": torch.ones(3), "aux.0.bias": torch.ones(3)}, r"aux\.\* \(2 names\)"),
    "profiler": ({**STATE, "layer1.0.conv1.total_ops": torch.zeros(1)}, "total_ops"),
}


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_is_left_over_is_noted_once(name, tmp_path):
    state, left_over = LEFT_OVER[name]
    torch.save(state, tmp_path / "w.ckpt")
    with pytest.warns(UserWarning, match=f"left over in the weights file: .*{left_over}") as said:
        model = load(tmp_path / "w.ckpt", arch=ARCH, classes=5)
    assert len(said) == 1
    assert is_(model.net, STATE)
    assert model.notes == (str(said[0].message),)


@pytest.mark.parametrize("copy", ["ema.", "model_ema.module.", "teacher.", "averaged_model."])
def test_the_network_comes_before_its_average(copy):
    net, facts = filled({**under(copy, OTHER), **under("student.")})
    assert is_(net, STATE)
    assert f"'student.' are used, not the copy below {copy.replace('module.', '')!r}" in facts["weights_note"]
    net, _ = filled({**under(copy, OTHER), **under("student.")}, KeyFilter(prefix=copy))
    assert is_(net, OTHER)


def test_the_copy_that_fits_is_used():
    without_head = {k: v for k, v in under("net.").items() if "fc" not in k}
    net, _ = filled({**without_head, **under("ema.", OTHER)})
    assert is_(net, OTHER)


def test_networks_that_fit_equally_well_are_for_the_caller_to_choose():
    both = {**under("first."), **under("second.", OTHER)}
    with pytest.raises(ModelError, match="choose one with prefix=; possible: 'first', 'second'"):
        filled(both)
    net, facts = filled(both, KeyFilter(prefix="second"))
    assert is_(net, OTHER)
    assert facts["weights_note"] == "left over in the weights file: first.* (92 names)"


def head(renamed, state=STATE):
    return {k.replace("fc.", f"{renamed}."): v for k, v in state.items()}


@pytest.mark.parametrize("name", ["fc.1", "fc.0", "classifier", "head.fc", "last_linear"])
def test_a_renamed_classifier_is_used_with_a_note(name):
    net, facts = filled(under("m.", head(name)))
    assert is_(net, STATE)
    assert facts["weights_note"].startswith(f"'m.{name}' of the file fills 'fc' of the network")


def test_a_classifier_is_not_guessed():
    hidden = {"fc.0.weight": torch.zeros(96, 96), "fc.0.bias": torch.zeros(96)}
    with pytest.raises(ModelError, match=r"without weights are 'fc', and those .* left over 'fc\.0', 'fc\.3'"):
        filled({**head("fc.3"), **hidden})
    fewer = {k: v[:3] if "fc" in k else v for k, v in STATE.items()}
    with pytest.raises(ModelError, match=r"left over 'top' \(the file has 3 classes: pass classes=3\)"):
        filled(head("top", fewer))
    with pytest.raises(ModelError, match=r"2 missing: fc\.weight, fc\.bias$"):
        filled({k: v for k, v in STATE.items() if "fc" not in k})


def test_a_larger_network_is_refused():
    """Every weight of the network is in the file, and another block that the network does not have."""
    larger = {**under("m."), "m.layer4.1.conv1.weight": torch.zeros(3), "m.layer4.1.conv1.bias": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"2 unknown to the network: m\.layer4\.1.*larger network.*ignore="):
        filled(larger)
    net, facts = filled(larger, KeyFilter(ignore=("m.layer4.1.*",)))
    assert is_(net, STATE)
    assert facts == {}
    with pytest.raises(ModelError, match=r"1 unknown to the network: layer1\.0\.conv1\.bias"):
        filled({**STATE, "layer1.0.conv1.bias": torch.zeros(3)})


def test_arguments_of_load(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({**under("a."), **under("b.", OTHER), "loss.weight": torch.ones(2)}, path)
    model = load(path, arch=ARCH, classes=5, prefix="b", ignore="a.*, loss.*")  # a warning would be an error
    assert is_(model.net, OTHER)
    for arguments, text in (
        ({"prefix": "c"}, r"no name in .*w\.pth begins with 'c'; the names begin with 'a', 'b', 'loss'"),
        ({"ignore": ["lost.*"]}, r"ignore='lost\.\*' matches no name in .*w\.pth"),
    ):
        with pytest.raises(SettingError, match=text):
            load(path, arch=ARCH, classes=5, **arguments)
    with pytest.raises(SettingError, match="choose names of a weights file"):
        load(ARCH, weights="none", prefix="a")
    with pytest.raises(SettingError, match="is a bundle"):
        load(model.save(tmp_path / "bundle"), ignore="a.*")


def test_a_needed_weight_cannot_be_ignored():
    with pytest.raises(ModelError, match=r"2 missing: fc\.weight, fc\.bias"):
        filled(STATE, KeyFilter(ignore=("fc.*",)))


def test_checkpoints_with_parts_of_any_name(tmp_path):
    """The generator of a GAN, beside its discriminator and optimizers."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    content = {"G": OTHER, "D": {"x.weight": torch.ones(2)}, "opt": optimizer.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match=r"left over in the weights file: D\.x\.weight$"):
        model = load(tmp_path / "w.pt", arch=ARCH, classes=5)
    assert is_(model.net, OTHER)


def test_a_network_with_parts_of_a_wrappers_name():
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)})
    expected = {k: v + 1 for k, v in net.state_dict().items()}
    assert fill(net, expected) == {}
    assert is_(net, expected)
    assert match(expected, net.state_dict()).prefix == ""


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_an_adapter_that_is_not_merged_is_refused(prefix):
    """The only layer without weights of its name would be filled with the base layer's."""
    state = {k: v for k, v in STATE.items() if not k.startswith("fc.")}
    state |= {"fc.base_layer.weight": STATE["fc.weight"], "fc.base_layer.bias": STATE["fc.bias"]}
    state |= {"fc.lora_A.default.weight": torch.ones(2, 4), "fc.lora_B.default.weight": torch.ones(5, 2)}
    state = {prefix + k: v for k, v in state.items()}
    with pytest.raises(ModelError, match=r"adapter that is not merged .*merge_and_unload.*ignore='\*lora_\*'"):
        filled(state)
    net, _ = filled(state, KeyFilter(ignore=("*lora_*",)))
    assert is_(net, STATE)
