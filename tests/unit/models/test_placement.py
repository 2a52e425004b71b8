"""Networks that mirror, shift, pad or crop their images inside: the places of the map are not those of the image."""

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.models.layer_choice import choose_layer

MOVES = {
    "mirrored": lambda x: x.flip(-1),
    "rolled": lambda x: torch.roll(x, x.shape[3] // 2, -1),
    "padded at its end": lambda x: nn.functional.pad(x, (0, -x.shape[3] % 128, 0, -x.shape[2] % 128)),
    "padded around": lambda x: nn.functional.pad(x, (48, 48, 48, 48)),
    "cropped in the middle": lambda x: x[
        :, :, x.shape[2] // 4 : -(x.shape[2] // 4), x.shape[3] // 4 : -(x.shape[3] // 4)
    ],
    "left half": lambda x: x[:, :, :, : x.shape[3] // 2],
    "turned": lambda x: x.mT.flip(-1),
}
STAYS = {
    "as it is": lambda x: x,
    "enlarged": lambda x: nn.functional.interpolate(x, scale_factor=1.5),
    "padded by a little": lambda x: nn.functional.pad(x, (3, 3, 3, 3)),
    "mirrored twice": lambda x: x.flip(-1).flip(-1),
    "reflected at the rim": lambda x: nn.functional.pad(x, (2, 2, 2, 2), mode="reflect"),
}


class Moved(nn.Module):
    def __init__(self, move):
        super().__init__()
        torch.manual_seed(0)
        layers = []
        for before, after in ((3, 16), (16, 16), (16, 32)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body, self.fc, self.move = nn.Sequential(*layers), nn.Linear(32, 2), move

    def forward(self, x):
        return self.fc(self.body(self.move(x)).mean((2, 3)))


@pytest.mark.parametrize("how", MOVES)
def test_moved_places_are_said(how):
    net, x = Moved(MOVES[how]).eval(), torch.randn(1, 3, 160, 160)
    assert not choose_layer(net, x).in_place
    with pytest.warns(UserWarning, match="may not be those of the image"):
        cs.cam(net, x)
    picture = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    preprocess = cs.Preprocess(input_size=(160, 160), fit="squash")
    assert any(
        "may not be those of the image" in note for note in cs.explain(net, picture, preprocess=preprocess).notes
    )


@pytest.mark.parametrize("how", STAYS)
def test_places_that_stay_need_no_word(how, recwarn):
    net, x = Moved(STAYS[how]).eval(), torch.randn(1, 3, 160, 160)
    assert choose_layer(net, x).in_place
    cs.cam(net, x)
    assert not [w for w in recwarn if "places of" in str(w.message)]


@pytest.mark.parametrize(("electrodes", "samples", "kernel"), [(64, 128, 64), (22, 257, 65)])
def test_a_kernel_over_half_of_an_axis_spreads_and_moves_nothing(electrodes, samples, kernel):
    """As EEGNet's first convolution over time."""
    layers = [nn.Conv2d(1, 8, (1, kernel), padding="same", bias=False), nn.BatchNorm2d(8)]
    layers += [nn.Conv2d(8, 16, (electrodes, 1), groups=8, bias=False), nn.BatchNorm2d(16), nn.ELU()]
    net = nn.Sequential(*layers, nn.AvgPool2d((1, 4)), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(2, 1, electrodes, samples)
    net(x)
    assert choose_layer(net.eval(), x).in_place


def test_an_image_that_is_mirrored_too_is_not_added_as_if_it_were_not():
    """Averages over mirrored images: on few cells, too, what is mirrored is not in place."""

    class Both(Moved):
        def forward(self, x):
            return super().forward(x) + super().forward(x.flip(-1))

    for side in (32, 64, 160):
        choice = choose_layer(Both(lambda x: x).eval(), torch.randn(1, 3, side, side))
        assert len(choice.layers) == 1 or not choice.in_place
        assert not (choice.complete and choice.in_place)


@pytest.mark.parametrize("classes", [1, 2, 100])
@pytest.mark.parametrize("best", [1, 3, 40])
@pytest.mark.parametrize("side", [64, 224])
def test_the_best_places_of_a_map_are_features_of_all_places(classes, best, side):
    """Weak supervision: class scores per place, of which the best are averaged."""

    class Best(Moved):
        def __init__(self):
            super().__init__(lambda x: x)
            self.classes = nn.Conv2d(32, classes, 1)

        def forward(self, x):
            return self.classes(self.body(x)).flatten(2).topk(best).values.mean(2)

    choice = choose_layer(Best().eval(), torch.randn(1, 3, side, side))
    assert (choice.layers, choice.complete, choice.in_place) == (("body",), True, True)


def test_a_best_place_beside_a_class_token_is_not_all_of_the_score():
    """As VOLO's: after the last block the patches act through the best of them alone."""

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.zeros(1, 1, 16))
            self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
            self.norm, self.fc, self.aux = nn.LayerNorm(16), nn.Linear(16, 2), nn.Linear(16, 2)

        def forward(self, x):
            x = self.patches(x).flatten(2).mT
            x = self.norm(self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1)))
            return self.fc(x[:, 0]) + 0.5 * self.aux(x[:, 1:]).max(1).values

    assert choose_layer(Beside().eval(), torch.randn(1, 3, 64, 64)).layers != ("norm",)
