"""What maps cost, counted: floating-point operations, forward passes, what is kept for a backward pass."""

import pytest
import timm
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import camscope as cs
from camscope.trace import record
from conftest import enliven

INPUTS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def operations(work):
    work()
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def net():
    return enliven(timm.create_model("resnet18", num_classes=14))


@pytest.fixture(scope="module")
def forward(net):
    return operations(lambda: net(INPUTS))


@pytest.mark.parametrize("method", ["gradcam", "layercam", "gradcampp", "eigencam"])
def test_a_map_takes_hardly_more_operations_than_the_forward_pass(net, forward, method):
    assert operations(lambda: cs.cam(net, INPUTS, method=method, targets=3)) <= 1.03 * forward


def test_ablating_every_channel_takes_two_forward_passes_and_tails(net, forward):
    assert operations(lambda: cs.cam(net, INPUTS, method="ablationcam", targets=3)) <= 2.05 * forward


def test_fourteen_classes_take_hardly_more_than_one(net, forward):
    assert operations(lambda: cs.cams(net, INPUTS, targets=[[*range(14)]] * 2)) <= 1.03 * forward


@pytest.mark.parametrize("options", [{}, {"engine": "openvino"}, {"precision": "bfloat16"}])
def test_nothing_before_the_layer_is_kept_for_a_backward_pass(net, options):
    layer = cs.default_layer(net, INPUTS)
    cs.cam(net, INPUTS, targets=3, **options)
    size = record(net, INPUTS, layers=[layer]).records[layer].numel()
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        cs.cam(net, INPUTS, targets=3, **options)
    weights = net.fc.weight.numel()
    assert kept
    assert max(kept) <= max(size, weights)
    assert sum(kept) <= 4 * size + 2 * weights
