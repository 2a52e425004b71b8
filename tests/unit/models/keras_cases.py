"""Keras' networks and files as camscope's models; run by test_keras.py in a process of its own."""

from __future__ import annotations

import copy
import gc
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torchvision

import camscope as cs
from camscope.errors import ModelError, SettingError
from camscope.methods.fullgrad import full_gradient
from camscope.models.sources.keras import names
from camscope.models.sources.keras_net import KerasNet, keras
from camscope.models.stages import stage_layers
from camscope.models.weights import read_weights
from camscope.targets import category
from camscope.trace import record
from camscope.trace.layout import find_layout

K = keras()
L = K.layers
KERAS_2 = Path(__file__).with_name("keras2.h5")


@pytest.fixture(autouse=True)
def seeded() -> None:
    K.utils.set_random_seed(0)
    torch.set_num_threads(1)


def small(*, size: int = 32, filters: int = 16, last: str = "softmax") -> Any:
    """Two convolutions; the second has as many channels as its grid has cells a side, where size is twice that."""
    return K.Sequential(
        [
            K.Input((size, size, 3)),
            L.Conv2D(8, 3, padding="same", activation="relu", name="first"),
            L.BatchNormalization(name="norm"),
            L.Conv2D(filters, 3, strides=2, padding="same", activation="relu", name="last"),
            L.Dropout(0.5),
            L.Flatten(),
            L.Dense(1 if last == "sigmoid" else 4, activation=last, name="head"),
        ]
    )


def nested(*, size: int = 64) -> Any:
    """A backbone as a layer, as it is fine-tuned: frozen, with a head of its own."""
    picture = K.Input((size, size, 3))
    x = L.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem")(picture)
    x = L.ReLU(6.0, name="early")(L.BatchNormalization()(x))
    x = L.add([x, L.SeparableConv2D(16, 3, padding="same")(x)])
    x = L.DepthwiseConv2D(3, strides=2, padding="same")(x)
    backbone = K.Model(picture, L.MaxPool2D()(L.ReLU(name="late")(x)), name="backbone.v1")
    backbone.trainable = False
    scaled = [K.Input((size, size, 3)), L.Rescaling(1 / 127.5, offset=-1), backbone]
    return K.Sequential([*scaled, L.GlobalAveragePooling2D(), L.Dense(1, activation="sigmoid")])


def saved(model: Any, folder: Path, ending: str = ".keras") -> Path:
    path = folder / f"model{ending}"
    model.save(path)
    return path


def load(path: Path, **options: Any) -> cs.Model:
    """Load a file, knowing how its images were prepared or not."""
    with pytest.warns(UserWarning, match="does not say how its images were prepared"):
        return cs.load(path, **options)


@pytest.mark.slow
def test_the_same_weights_in_keras_and_torchvision_give_the_same_map() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16(init_weights=False)
    theirs.to_empty(device="cpu").eval()
    for parameter in theirs.parameters():
        # Uniform, of He's variance: normal numbers take three times as long.
        bound = (6 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        torch.nn.init.uniform_(parameter, -bound, bound)
    state = {}
    model = cs.load("keras:VGG16", weights="none")
    for name, parameter in zip(model.net.state_dict(), theirs.parameters(), strict=True):
        if name == "fc1.kernel":  # Keras flattens places before channels
            parameter = parameter.view(4096, 512, 7, 7).permute(0, 2, 3, 1).flatten(1)
        orders = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
        state[name] = parameter.detach().permute(orders[parameter.ndim])
    model.net.load_state_dict(state)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert cs.default_layer(model.net, x) == "block5_conv3"
    assert cs.default_layer(theirs, x) == "features.29"
    forward, expected = record(model.net, x, layers=[]), theirs(x).detach()
    assert forward.bypassed == "softmax"
    torch.testing.assert_close(forward.outputs, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    ours, reference = cs.cam(model.net, x, targets=7), cs.cam(theirs, x, targets=7)
    assert ours.shape == (1, 14, 14)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-4 * float(reference.abs().max()))


def test_gradcam_is_what_keras_own_tensors_give(tmp_path: Path) -> None:
    """By hand in Keras' own order of axes; the layer's 16 channels on 16 x 16 cells could be read either way."""
    own = small()
    net = load(saved(own, tmp_path)).net
    x = torch.rand(2, 3, 32, 32)
    features = own.layers[2](own.layers[1](own.layers[0](x.movedim(1, -1)))).detach().requires_grad_()
    logits = features.flatten(1) @ own.get_layer("head").kernel.value + own.get_layer("head").bias.value
    logits[:, 3].sum().backward()
    by_hand = (features.grad.mean((1, 2), keepdim=True) * features).sum(3).detach()
    found = cs.cam(net, x, layer="last", targets=3)
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6 * float(by_hand.abs().max()))
    assert cs.default_layer(net, x) == "last"
    assert stage_layers(net, x) == ["norm", "last"]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_compute_what_keras_computes(tmp_path: Path, ending: str) -> None:
    own = nested()
    model = load(saved(own, tmp_path, ending))
    x = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(model.net(x), own(x.movedim(1, -1).contiguous()))
    assert (model.outcome, model.recipe and model.recipe.classes, model.preprocess.std) == ("any", 1, (1 / 255,) * 3)
    assert cs.default_layer(model.net, x) == "backbone_v1.late"
    assert cs.cam(model.net, x).any()
    assert record(model.net, x, layers=[]).bypassed == "sigmoid"


def test_weights_stand_once_in_the_state_dict(tmp_path: Path) -> None:
    own = nested()
    net = load(saved(own, tmp_path)).net
    assert len(net.state_dict()) == len(own.weights)
    assert {name.rpartition(".")[2] for name, _ in net.named_buffers()} == {"moving_mean", "moving_variance"}
    assert not any(p.requires_grad for name, p in net.named_parameters() if name.startswith("backbone"))


def test_a_model_survives_its_explanation(tmp_path: Path) -> None:
    model = load(saved(small(), tmp_path))
    x, before = torch.rand(1, 3, 32, 32), model.digest
    modules = list(model.net.named_modules())
    for method in ("gradcam", "scorecam", "ablationcam", "fullgrad", "guidedgradcam", "eigencam"):
        assert cs.cam(model.net, x, method=method).isfinite().all()
    again = [module for _, module in model.net.named_modules()]
    assert [module for _, module in modules] == again
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in again)
    assert all(p.requires_grad and p.grad is None for p in model.net.parameters())
    object.__delattr__(model, "digest")
    assert model.digest == before


def test_the_tail_after_a_layer_gives_the_whole_networks_scores(tmp_path: Path) -> None:
    net = load(saved(nested(), tmp_path)).net
    x, layer = torch.rand(2, 3, 64, 64) * 255, "backbone_v1.early"
    forward = record(net, x, layers=[layer])
    layout = find_layout(forward.records[layer].shape, x.shape, layer=layer, last=True)
    trace = forward.trace(layer, [category(0)] * 2, layout=layout)
    edit = trace.activations * torch.linspace(0, 1, trace.activations.shape[1]).view(1, -1, 1, 1)
    part = trace.again(edit=lambda _: edit)
    whole = trace.again(x, edit=lambda _: edit)
    torch.testing.assert_close(part.scores, whole.scores)
    assert not torch.allclose(part.scores, trace.scores)


def test_shares_of_pixels_and_biases_add_up_to_the_score(tmp_path: Path) -> None:
    net = load(saved(small(), tmp_path)).net
    for buffer in net.buffers():
        buffer.add_(torch.rand_like(buffer))
    x, shares = torch.rand(1, 3, 32, 32), []
    pixels = full_gradient(net, x, [category(1)], lambda name, share: shares.append(share.sum()))
    score = record(net, x, layers=[]).outputs[0, 1]
    torch.testing.assert_close(pixels.sum() + sum(shares), score, rtol=1e-4, atol=1e-5)


def test_a_copy_shares_nothing(tmp_path: Path) -> None:
    net = load(saved(nested(), tmp_path)).net
    twin, x = copy.deepcopy(net), torch.rand(1, 3, 64, 64)
    assert torch.equal(twin(x), net(x))
    for module in twin.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()
    assert not torch.allclose(twin(x), net(x))
    fresh = load(tmp_path / "model.keras").net
    assert torch.equal(fresh(x), net(x))


def test_bundles(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = load(saved(nested(), tmp_path), labels=["Effusion"])
    again = cs.load(model.save(tmp_path / "file"))
    assert not [w for w in recwarn if "prepared" in str(w.message)]
    assert (again.digest, again.labels, again.preprocess) == (model.digest, ("Effusion",), model.preprocess)
    listed = cs.load("keras:MobileNetV2", weights="none", classes=3, options={"alpha": 0.35}, input_size=64)
    again = cs.load(listed.save(tmp_path / "listed"))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.net(x), listed.net(x))
    assert again.digest == listed.digest


def test_what_keras_2_wrote() -> None:
    """Written by tf.keras 2.15, with its prediction; DepthwiseConv2D states ``groups``, which Keras 3 refuses."""
    model = load(KERAS_2)
    x = torch.linspace(0, 255, 24 * 20 * 3).view(1, 24, 20, 3).movedim(3, 1)
    expected = torch.tensor([[0.01671510934829712, 0.027885856106877327, 0.9553990364074707]])
    torch.testing.assert_close(model.net(x).detach(), expected, rtol=1e-5, atol=1e-6)
    assert model.preprocess.input_size == (24, 20)
    assert cs.default_layer(model.net, x) == "re_lu_1"
    assert cs.cam(model.net, x).shape == (1, 12, 10)


def test_weights_files(tmp_path: Path) -> None:
    one, other = small(), small()
    other.save_weights(tmp_path / "other.weights.h5")
    path, x = saved(one, tmp_path), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        filled = load(path, weights=tmp_path / "other.weights.h5").net(x)
        assert torch.equal(filled, other(x.movedim(1, -1)))
        assert not torch.equal(load(path, weights="none").net(x), one(x.movedim(1, -1)))
    listed = cs.load("keras:MobileNet", weights="none", classes=4, options={"alpha": 0.25}, input_size=64)
    listed.net.keras_model.save_weights(tmp_path / "mobilenet.weights.h5")
    settings = {"classes": 4, "options": {"alpha": 0.25}, "input_size": 64}
    again = cs.load(tmp_path / "mobilenet.weights.h5", arch="keras:MobileNet", **settings)
    assert again.digest == listed.digest
    assert set(read_weights(listed.save(tmp_path / "b") / "weights.safetensors")) == set(listed.net.state_dict())
    with pytest.raises(ModelError, match="does not fit the network"):
        cs.load("keras:MobileNet", weights=tmp_path / "other.weights.h5", **settings)


def test_preprocessing_that_a_file_is_given(tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    assert load(path).preprocess.std == (1.0, 1.0, 1.0)
    told = cs.load(path, mean=[0.5], std=[0.25])  # and a warning would be an error
    assert (told.preprocess.mean, told.facts) == ((0.5, 0.5, 0.5), {})
    assert "pixels in [0, 1]" in load(path).facts["assumed"]
    asked = cs.load(path, options={"preprocess": "vgg16"}).preprocess
    assert asked.order == "bgr"
    assert asked.mean == pytest.approx(tuple(v / 255 for v in (103.939, 116.779, 123.68)))
    with pytest.raises(SettingError, match="no preprocess called 'vgg'; nearest: 'vgg19', 'vgg16'"):
        cs.load(path, options={"preprocess": "vgg"})
    normalised = K.Sequential(
        [K.Input((8, 8, 1)), L.Normalization(mean=120.0, variance=900.0), L.Conv2D(2, 3), L.Flatten(), L.Dense(2)]
    )
    assert load(saved(normalised, tmp_path, ".h5")).preprocess.std == (1 / 255,)


class Doubled(L.Layer):
    """A layer that Keras does not know."""

    def call(self, x: Any) -> Any:
        return 2 * x


def with_layer(layer: Any) -> Any:
    picture = K.Input((16, 16, 3))
    features = layer(L.Conv2D(4, 3, activation="relu")(picture))
    return K.Model(picture, L.Dense(2)(L.GlobalAveragePooling2D()(features)))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_custom_objects(tmp_path: Path, ending: str) -> None:
    path = saved(with_layer(Doubled()), tmp_path, ending)
    if ending == ".h5":  # Keras writes the class's module into .keras files and finds it there
        with pytest.raises(ModelError, match=r"needs 'Doubled'.*options=\{'custom_objects': \{'Doubled': Doubled\}\}"):
            cs.load(path)
    model = load(path, options={"custom_objects": {"Doubled": Doubled}})
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(copy.deepcopy(model.net)(x), model.net(x))
    with pytest.raises(ModelError, match="cannot be written as a bundle"):
        model.save(tmp_path / "bundle")


class Block(L.Layer):
    """A layer with layers in a list and a dict and weights without names: Keras numbers them anew in each copy."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.many = [L.Conv2D(4, 3, padding="same"), L.BatchNormalization()]
        self.named = {"last": L.Conv2D(4, 1)}

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(4,), initializer="ones")
        self.shift = self.add_weight(shape=(4,), initializer="zeros")
        for inner in (*self.many, *self.named.values()):
            inner.build(shape)

    def call(self, x: Any) -> Any:
        for inner in (*self.many, *self.named.values()):
            x = inner(x)
        return x * self.scale + self.shift


def test_layers_and_weights_without_names_are_copied() -> None:
    net = KerasNet(with_layer(Block(name="block")), custom_objects={"Block": Block})
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    x, twin = torch.rand(2, 3, 16, 16), copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    assert list(twin.state_dict()) == list(net.state_dict())
    assert {"block.variable", "block.many_0.kernel", "block.named_last.bias"} <= set(net.state_dict())
    assert cs.default_layer(net, x) == "block"


def test_a_model_in_memory_is_that_of_its_file(tmp_path: Path) -> None:
    model = small()
    x = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    kept, names = model.get_weights(), list(model._modules)
    in_memory, from_file = cs.explain(model, x), cs.explain(load(saved(model, tmp_path)), x)
    assert (in_memory.layer, in_memory.index, in_memory.model) == (from_file.layer, from_file.index, model.name)
    assert np.array_equal(in_memory.grid, from_file.grid)
    assert any("the model does not say how its images were prepared" in note for note in in_memory.notes)
    assert all(map(np.array_equal, model.get_weights(), kept))
    assert list(model._modules) == names
    with pytest.raises(ModelError, match=r"channels last: use cs\.load"):
        cs.cam(model, torch.rand(1, 32, 32, 3))


def test_the_layer_does_not_depend_on_the_statistics_of_norms() -> None:
    layers = set()
    for scale in (0.01, 1.0, 100.0):
        net = cs.load("keras:EfficientNetB0", weights="none", input_size=96).net
        for name, buffer in net.named_buffers():
            if name.endswith("moving_variance"):
                buffer.mul_(scale)
        layers.add(cs.default_layer(net, torch.rand(1, 3, 96, 96)))
    assert layers == {"top_activation"}


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    small().save_weights(tmp_path / "alone.weights.h5")
    (tmp_path / "damaged.keras").write_bytes(path.read_bytes()[:1000])
    (tmp_path / "damaged.h5").write_bytes(b"nothing")
    picture = K.Input((16, 16, 3))
    two = K.Model([picture, K.Input((3,))], [L.Flatten()(picture)] * 2)
    two.save(tmp_path / "two.keras")
    for file, text in {
        "alone.weights.h5": "holds only weights: name their network, such as arch='keras:VGG16'",
        "damaged.keras": "cannot be read as a Keras model",
        "damaged.h5": "cannot be read as a Keras model",
        "absent.keras": "there is no Keras model",
        "two.keras": "has 2 inputs and 2 outputs",
    }.items():
        with pytest.raises(ModelError, match=text):
            cs.load(tmp_path / file)
    for settings, text in (
        ({"input_size": 64}, "takes 32 x 32 pixels only"),
        ({"labels": ["a", "b"]}, "has 4 outputs, not 2"),
        ({"options": {"custom": 1}}, "no option for a Keras file called 'custom'"),
    ):
        with pytest.raises(SettingError, match=text):
            cs.load(path, **settings)


def test_names_and_options_of_applications() -> None:
    assert names() == [name for name in dir(K.applications) if name[0].isupper()]
    with pytest.raises(ModelError, match="no Keras model called 'VGG17'; nearest: 'VGG19', 'VGG16'"):
        cs.load("keras:VGG17")
    with pytest.raises(SettingError, match="include_top is not for options"):
        cs.load("keras:VGG16", options={"include_top": False})
    with pytest.raises(ModelError, match="Keras cannot build keras:MobileNet"):
        cs.load("keras:MobileNet", weights="none", options={"depth": 1})
    model = cs.load("keras:MobileNetV2", weights="none")
    assert model.index("goldfish") == 1
    assert model.label(999).startswith("toilet tissue")


def test_published_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
    text = r"bring the file vgg16_weights_tf_dim_ordering_tf_kernels.h5, put it in .*models or pass weights=FILE"
    with pytest.raises(ModelError, match=text):
        cs.load("keras:VGG16")


def test_published_weights_of_another_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits is taken over from the network with all classes."""
    made: list[Any] = []
    original: Callable[..., Any] = K.applications.MobileNet

    def maker(*, weights: str | None, **options: Any) -> Any:
        made.append(original(weights=None, **options))
        return made[-1]

    maker.__module__ = original.__module__
    monkeypatch.setattr(K.applications, "MobileNet", maker)
    model = cs.load("keras:MobileNet", classes=3, input_size=64, options={"alpha": 0.25})
    published, own = made
    assert model.net.state_dict()["conv_preds.kernel"].shape[-1] == 3
    assert torch.equal(published.get_layer("conv_pw_13").kernel.value, own.get_layer("conv_pw_13").kernel.value)


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(K.config, "backend", lambda: "jax")
    with pytest.raises(ModelError, match="imported with its jax backend, and camscope needs torch"):
        cs.load("keras:VGG16", weights="none")


def test_pictures_of_channels_first_and_masks() -> None:
    picture = K.Input((3, 16, 12))
    first = K.Model(picture, L.Conv2D(4, 3, data_format="channels_first")(picture))
    assert KerasNet(first)(torch.rand(2, 3, 16, 12)).shape == (2, 4, 14, 10)
    picture = K.Input((16, 12, 3))
    last = K.Model(picture, L.Conv2D(4, 3)(picture))
    assert KerasNet(last)(torch.rand(2, 3, 16, 12)).shape == (2, 4, 14, 10)


FAINT = ("EfficientNetV2L", "EfficientNetV2M")
"""So deep that with random weights no place of the last layer answers more to its own part of the image."""


# Keras itself refuses NASNetMobile on its torch backend. At their own sizes the largest would need 16 GB.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if name != "NASNetMobile"])
def test_every_application_has_a_layer_and_a_map(name: str) -> None:
    torch.manual_seed(0)
    model = cs.load(f"keras:{name}", weights="none", input_size=224)
    x = torch.rand(1, 3, 224, 224) / model.preprocess.std[0]
    layer = cs.default_layer(model.net, x)
    corners, side = x.repeat(2, 1, 1, 1), x.shape[-1] // 4
    corners[0, :, :side, -side:] *= 0.5
    corners[1, :, -side:, :side] *= 0.5
    seen = record(model.net, torch.cat([x, corners]), layers=[layer])
    assert seen.bypassed == "softmax"
    heat = cs.cam(model.net, x)
    assert heat.isfinite().all()
    assert heat.any()
    assert heat.shape[1] == heat.shape[2] >= 5
    same, *changed = seen.records[layer].detach().movedim(-1, 1)
    half = heat.shape[1] // 2
    shown = [(other - same).abs().sum(0) for other in changed]
    # Of a deep random network all places answer; a corner answers most to what is changed in it.
    right, left = (float(one[:half, -half:].mean() / one[-half:, :half].mean()) for one in shown)
    assert right > 1.1 * left or name in FAINT
    del model, seen, heat
    gc.collect()


def test_layers_in_train_mode_compute_as_keras_does() -> None:
    """Batch norms update their statistics, dropouts follow PyTorch's seed, and a layer in eval mode does neither."""
    model = small()
    own = K.models.clone_model(model)
    own.set_weights(model.get_weights())
    net, x = KerasNet(model), torch.rand(6, 3, 32, 32)
    assert not any(module.training for module in net.modules())
    dropout = next(module for module in net.modules() if type(module).__name__ == "Dropout")
    net.train()
    dropout.training = False
    own.layers[3].rate = 0.0
    assert torch.allclose(net(x), own(x.movedim(1, -1), training=True))
    for name in ("moving_mean", "moving_variance"):
        assert torch.allclose(net.state_dict()[f"norm.{name}"], getattr(own.get_layer("norm"), name).value)
    dropout.training = True
    net.get_submodule("norm").training = False
    before = net.state_dict()["norm.moving_mean"].clone()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(net(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(net.state_dict()["norm.moving_mean"], before)
    outputs[0].sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("outcome", ["one", "any"])
@pytest.mark.parametrize("make", [small, nested])
def test_the_classifier_of_a_file_is_replaced(make: Callable[..., Any], outcome: Any, tmp_path: Path) -> None:
    path = saved(make(size=32), tmp_path)
    with pytest.warns(UserWarning, match="is left out, and that of the network is new"):
        model = cs.load(path, labels=["a", "b", "c"], outcome=outcome, mean=0, std=1, new_classifier=True)
    x = torch.rand(2, 3, 32, 32)
    scores = model.net(x)
    assert (scores.shape, model.untrained) == ((2, 3), "random classifier")
    assert torch.allclose(scores.sum(1), torch.ones(2)) == (outcome == "one")
    old = load(path).net.state_dict()
    same = [key for key, tensor in model.net.state_dict().items() if torch.equal(tensor, old[key])]
    assert len(same) >= len(old) - 2
    bundle = model.save(tmp_path / "bundle")
    assert torch.equal(cs.load(bundle).net(x), scores)
    (tmp_path / "again.keras").write_bytes(model.net.keras_file())
    again = K.models.load_model(tmp_path / "again.keras")
    assert np.allclose(again(x.movedim(1, -1)).detach(), scores.detach(), atol=1e-6)


@pytest.mark.slow
def test_weights_of_keras_with_another_top_or_none_fill_the_rest(tmp_path: Path) -> None:
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    options: dict[str, Any] = {"weights": None, "input_shape": (32, 32, 3)}
    whole = K.applications.VGG16(**options, classes=5)
    whole.save_weights(tmp_path / "new.weights.h5")
    whole.save(tmp_path / "whole.keras")
    for name, part in (("whole.h5", whole), ("notop.h5", K.Model(whole.inputs, whole.get_layer("block5_pool").output))):
        with h5py.File(tmp_path / name, "w") as file:
            save_weights_to_hdf5_group(file, part)
    new = {"notop.h5": "'fc1', 'fc2', 'predictions'"}
    for name in ("new.weights.h5", "whole.keras", "whole.h5", "notop.h5"):
        with pytest.warns(UserWarning, match=f"left out; new in the network: {new.get(name, chr(39) + 'predictions')}"):
            model = cs.load("keras:VGG16", weights=tmp_path / name, classes=2, input_size=32, new_classifier=True)
        kernel = model.net.state_dict()["block4_conv2.kernel"]
        assert torch.equal(kernel, whole.get_layer("block4_conv2").kernel.value)
        assert not any(tensor.isnan().any() for tensor in model.net.state_dict().values())
        with pytest.raises(ModelError, match="does not fit the network 'vgg19': it lacks block3_conv4"):
            cs.load("keras:VGG19", weights=tmp_path / name, classes=2, input_size=32, new_classifier=True)
