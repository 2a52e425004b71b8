"""Gradients through norms, where PyTorch alone returns wrong ones: of strides that fit no layout."""

import copy

import pytest
import torch
from torch import nn

import camscope as cs
from camscope.targets import category
from camscope.trace import record
from camscope.trace.norm_gradients import plain


class Tokens(nn.Module):
    """Convolutions and a norm; the score is read from the tokens, as hybrids of convolutions and attention read it."""

    def __init__(self, norm, read):
        super().__init__()
        self.stem, self.norm, self.read, self.head = nn.Conv2d(3, 12, 4, 4), norm, read, nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.read(self.norm(self.stem(x).relu()).flatten(2).transpose(1, 2)))


def attended(tokens):
    return (nn.functional.scaled_dot_product_attention(tokens, tokens, tokens) + tokens)[:, 0]


READS = {"first": lambda tokens: tokens[:, 0], "mean": lambda tokens: tokens.square().mean(1), "attention": attended}


def token_net(norm, read):
    torch.manual_seed(0)
    net = Tokens(norm, read)
    for name, buffer in norm.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    return net.eval()


NORMS = {
    "batch": lambda: nn.BatchNorm2d(12),
    "instance": lambda: nn.InstanceNorm2d(12, affine=True),
    "instance with statistics": lambda: nn.InstanceNorm2d(12, track_running_stats=True),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", NORMS)
def test_the_gradient_is_that_of_a_norm_without_kernels(name, read, batch, layout):
    net = token_net(NORMS[name](), READS[read])
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    forward = record(net, x, layers=["stem"])
    gradient = forward.trace("stem", [category(0)] * batch).gradients
    reference = copy.deepcopy(net).double()
    reference.norm = Written(reference.norm)
    expected = record(reference, x.double(), layers=["stem"]).trace("stem", [category(0)] * batch).gradients
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-4)


class Written(nn.Module):
    """The norm as it is defined, from sums alone."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        norm = self.norm
        if norm.running_mean is None:
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        else:
            mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        result = (x - mean) / (variance + norm.eps).sqrt()
        return result if norm.weight is None else result * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_the_map_of_one_image_is_that_of_a_batch(method):
    net = token_net(nn.BatchNorm2d(12), attended)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    alone = cs.cam(net, x, method=method, layer="stem", targets=1)
    together = cs.cam(net, x.repeat(2, 1, 1, 1), method=method, layer="stem", targets=1)
    torch.testing.assert_close(alone[0], together[0], rtol=1e-4, atol=1e-6)


def test_plain_strides_are_kept():
    last = torch.ones(1, 3, 4, 4).to(memory_format=torch.channels_last)
    for tensor in (torch.ones(2, 3, 4, 4), last, torch.ones(2, 3)):
        assert plain(tensor) is tensor
    odd = torch.rand(1, 3, 4, 4).permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    assert plain(odd).stride() == (48, 1, 12, 3)
    torch.testing.assert_close(plain(odd), odd)
