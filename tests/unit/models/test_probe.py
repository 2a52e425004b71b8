import pytest
import timm
import torch
from torch import nn

from camscope.models.layer_choice import default_layer
from camscope.models.probe import Probe

BODY = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
CORNERS = [
    (slice(8), slice(12)),
    (slice(8), slice(-12, None)),
    (slice(-8, None), slice(12)),
    (slice(-8, None), slice(-12, None)),
]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(*BODY, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
def test_each_corner_is_changed_in_an_image_of_its_own_and_stays_like_the_image(net, dtype):
    first, *changed = Probe(net, torch.ones(2, 3, 32, 48, dtype=dtype)).images.detach()
    for one, (rows, columns) in zip(changed, CORNERS, strict=True):
        differs = (one != first).any(0)
        assert differs[rows, columns].all()
        assert differs.sum() == 8 * 12
        assert 0.8 < one[:, rows, columns].std() / first.std() < 1.4


def test_the_images_and_weights_are_our_own(net):
    """Nothing of the user's values is in the pass: the same events to the last bit."""
    x = torch.randn(2, 3, 32, 48)
    events = [e.tensor.detach() for e in Probe(net, x).events]
    for parameter in net.parameters():
        parameter.data.fill_(-7.0)
    again = [e.tensor.detach() for e in Probe(net, torch.full_like(x, float("nan"))).events]
    assert all(torch.equal(a, b) for a, b in zip(events, again, strict=True))


def test_a_place_that_answers_to_every_corner_is_not_that_corners_place(pictures):
    """Everything is mixed, and shows most at the top right: right for that corner, and by chance."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Sequential(*BODY), nn.Linear(8, 4)
            rows, columns = torch.meshgrid(torch.linspace(2, 1, 8), torch.linspace(1, 2, 8), indexing="ij")
            self.register_buffer("slope", rows * columns)

        def forward(self, x):
            mixed = self.body(x).mean((2, 3), keepdim=True) * self.slope
            return self.fc(mixed.tanh().mean((2, 3)))

    torch.manual_seed(0)
    assert default_layer(Mixed(), pictures(1, 3, 32, 32, dtype=torch.float32)) == "body"


def test_few_states_are_no_grid(pictures):
    """Nine states of a mixer would fit a square image as 3 x 3 places."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.read, self.fc = nn.Sequential(*BODY), nn.Linear(8, 9), nn.Linear(8, 4)
            self.mix = nn.Linear(8, 8)

        def forward(self, x):
            places = self.body(x).flatten(2).movedim(1, 2)
            states = self.mix(self.read(places).softmax(1).movedim(1, 2) @ places)
            return self.fc(states.mean(1))

    torch.manual_seed(0)
    assert default_layer(Mixer(), pictures(1, 3, 32, 32, dtype=torch.float32)) == "body"


@pytest.mark.parametrize("classes", [1, 2])
def test_a_single_class_reads_more_than_the_sum_of_the_features(pictures, classes):
    """The sum of what a layer norm returns is the same for every image."""
    net = timm.create_model("test_convnext", num_classes=classes)
    assert default_layer(net, pictures(1, 3, 64, 64, dtype=torch.float32)) == "stages"
