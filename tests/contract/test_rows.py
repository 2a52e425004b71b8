"""Every method of one layer sees some of the images of a pass as it sees all of them."""

from __future__ import annotations

import contextlib

import pytest
import torch

from camscope.errors import MethodError
from camscope.methods import METHODS, facts_of
from camscope.methods.joint import joint_map
from camscope.targets import category
from camscope.trace import record
from camscope.trace.layout import find_layout

ONE_LAYER = sorted(name for name, function in METHODS.items() if not facts_of(function).whole_network)
PLACES = {"flattened": "3", "pooled": "5", "small vit": "blocks.2.norm1"}


@pytest.mark.parametrize("kind", ["flattened", "pooled", "small vit"])
@pytest.mark.parametrize("name", ONE_LAYER)
def test_some_images_of_a_pass_have_the_maps_of_all(make_net, pictures, name, kind):
    net = make_net("plain" if kind == "flattened" else kind)
    channels, size = {"flattened": (2, 12), "pooled": (3, 32), "small vit": (3, 64)}[kind]
    x = pictures(4, channels, size, size)
    forward = record(net, x, layers=[PLACES[kind]])
    layout = find_layout(forward.records[PLACES[kind]].shape, x.shape, layer=PLACES[kind])
    targets = [category(i % 3) for i in range(4)]
    with contextlib.suppress(MethodError):
        whole = joint_map(METHODS[name], [forward.trace(PLACES[kind], targets, layout=layout)])
        rows = [2, 0]
        part = forward.trace(PLACES[kind], [targets[i] for i in rows], layout=layout, rows=rows)
        some = joint_map(METHODS[name], [part])
        assert torch.allclose(some, whole[rows], rtol=1e-6, atol=1e-9)
