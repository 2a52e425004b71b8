import argparse
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from camscope.errors import ModelError
from camscope.models.weight_names import ALL
from camscope.models.weights import fill, read_weights


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, classes)


def state(classes=3, seed=0):
    torch.manual_seed(seed)
    return Net(classes).state_dict()


def same(net, expected):
    return all(torch.equal(net.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".PTH"])
def test_every_kind_of_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state(), path)
    else:
        torch.save(state(), path)
    net = Net()
    fill(net, read_weights(path))
    assert same(net, state())


WRAPPED = {
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}, "param_groups": [1]}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.1},
    "model": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "net": lambda s: {"net": s},
    "ema": lambda s: {"ema": s},
    "twice": lambda s: {"model": {"state_dict": s}},
    "model before ema": lambda s: {"model_ema": {k: v + 1 for k, v in s.items()}, "model": s},
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrappers(tmp_path, wrap):
    torch.save(WRAPPED[wrap](state()), tmp_path / "w.pth")
    net = Net()
    facts = fill(net, read_weights(tmp_path / "w.pth"), keys=ALL)
    assert same(net, state())
    assert bool(facts) == (wrap == "model before ema")


PREFIXED = {
    "module": lambda k: "module." + k,
    "several": lambda k: "module._orig_mod.model." + k,
    "backbone alone": lambda k: "backbone." + k if k.startswith("stem") else k,
    "both": lambda k: "module." + ("backbone." + k if k.startswith("stem") else k),
}


@pytest.mark.parametrize("prefix", PREFIXED)
def test_prefixes(prefix):
    net = Net()
    fill(net, {PREFIXED[prefix](k): v for k, v in state().items()})
    assert same(net, state())


def test_a_prefix_of_the_network_itself_stays():
    net = nn.ModuleDict({"model": Net(), "net": Net()})
    expected = {k: v + 1 for k, v in net.state_dict().items()}
    fill(net, expected)
    assert same(net, expected)


def test_nothing_is_left_over_unless_the_caller_takes_the_note():
    given = {**{"model." + k: v for k, v in state().items()}, "criterion.weight": torch.ones(3)}
    with pytest.raises(ModelError, match=r"every|its name.*left over in the file: criterion\.weight"):
        fill(Net(), given)
    net = Net()
    assert fill(net, given, keys=ALL) == {"weights_note": "left over in the weights file: criterion.weight"}
    assert same(net, state())


def test_batch_counters_of_old_files():
    old = {k: v for k, v in state().items() if not k.endswith("num_batches_tracked")}
    net = Net()
    fill(net, old)
    assert same(net, old)


def test_versions_of_modules_reach_them(tmp_path):
    """MNASNet refuses weights that state no version, and safetensors stores none."""
    from torchvision.models import mnasnet0_5

    net = mnasnet0_5(num_classes=2)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    other = mnasnet0_5(num_classes=2)
    fill(other, read_weights(tmp_path / "w.safetensors"))
    assert same(other, net.state_dict())


def test_one_error_lists_every_key_and_nothing_is_changed():
    given = OrderedDict(state(seed=1))
    given["stem.0.weight"] = torch.zeros(4, 1, 3, 3)
    del given["stem.1.running_mean"]
    given["tail.bias"] = torch.zeros(2)
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ModelError) as error:
        fill(net, given, origin="w.pth")
    assert str(error.value) == (
        "w.pth does not fit the network: the file has 9 weights, the network 9; 7 fit; 1 of another shape: "
        "stem.0.weight is (4, 1, 3, 3), the network's is (4, 3, 3, 3); 1 missing: stem.1.running_mean; "
        "left over in the file: tail.bias"
    )
    assert same(net, before)


def test_an_error_says_the_pattern_and_few_examples():
    other = {f"encoder.blocks.{i}.{part}": torch.zeros(2) for i in range(60) for part in ("weight", "bias")}
    with pytest.raises(ModelError) as error:
        fill(Net(), other, origin="w.pth", keys=ALL)
    assert (
        "the file has 120 weights, the network 9; 0 fit; every name in the file begins with 'encoder.blocks.'"
        in str(error.value)
    )
    assert "8 missing: stem.0.weight, stem.0.bias, stem.1.weight, stem.1.bias and 4 more" in str(error.value)
    assert len(str(error.value)) < 400


def test_another_number_of_classes_is_said():
    with pytest.raises(ModelError, match=r"the file has 2 classes: pass classes=2"):
        fill(Net(), state(classes=2))
    with pytest.raises(ModelError) as error:
        fill(Net(), {**state(classes=2), "stem.0.weight": torch.zeros(4, 1, 3, 3)})
    assert "pass classes" not in str(error.value)


class Trap:
    """What unpickling would run."""

    def __reduce__(self):
        return os.mkdir, ("trap-went-off",)


def test_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state(), "extra": Trap()}, "trap.pth")
    with pytest.raises(ModelError, match=r"trap\.pth holds .*mkdir, which only code .* torch\.save"):
        read_weights("trap.pth")
    assert not (tmp_path / "trap-went-off").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"torch\.nn\.modules\.linear\.Linear.*its tensors alone"):
        read_weights(tmp_path / "net.pt")


def truncated(path):
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-400])


DAMAGED = {
    "text.pth": lambda p: p.write_text("hello world"),
    "page.pth": lambda p: p.write_text("<!DOCTYPE html>"),
    "empty.pth": lambda p: p.write_bytes(b""),
    "truncated.pth": truncated,
    "pickle.bin": lambda p: p.write_bytes(pickle.dumps(list(range(5)))[:-3]),
    "page.safetensors": lambda p: p.write_text("<!DOCTYPE html>"),
    "empty.safetensors": lambda p: p.write_bytes(b""),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    DAMAGED[name](tmp_path / name)
    with pytest.raises(ModelError, match=f"{name} is damaged or not a weights file"):
        read_weights(tmp_path / name)


def test_programs_are_refused_with_what_to_do_instead(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "exported.pt2")
    (tmp_path / "exported.pt2").rename(tmp_path / "exported.pt")
    with pytest.raises(
        ModelError, match=r"exported\.pt is an exported program, .* torch\.export\.load\(FILE\)\.state_dict"
    ):
        read_weights(tmp_path / "exported.pt")


def test_files_without_weights(tmp_path):
    with pytest.raises(ModelError, match="there is no weights file"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "w.npz").write_bytes(b"1")
    with pytest.raises(ModelError, match=r"w\.npz is not a weights file .*\.safetensors"):
        read_weights(tmp_path / "w.npz")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds list, not a state_dict"):
        read_weights(tmp_path / "list.pt")
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "none.pt")
    with pytest.raises(ModelError, match=r"none\.pt holds no weights, but 'epoch', 'loss': save"):
        read_weights(tmp_path / "none.pt")
    torch.save({"score": np.float64(3)}, tmp_path / "numpy.pt")
    with pytest.raises(ModelError, match="numpy"):
        read_weights(tmp_path / "numpy.pt")
