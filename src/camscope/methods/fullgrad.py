"""FullGrad: gradients with respect to the image and every bias."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from camscope.errors import MethodError
from camscope.heatmap import upsample
from camscope.methods.network import Targets, at_input, input_gradients
from camscope.methods.registry import MethodFacts, method
from camscope.trace import tensors
from camscope.trace.layout import Layout, Locate, grid_of, guess_layout, is_last
from camscope.trace.pytree import map_tensors, picture_of

Take = Callable[[str, Tensor], None]

_CONVOLUTIONS = {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
# fmt: off
_HOMOGENEOUS = {
    "__get__", "__getitem__", "__len__", "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "backward",
    "chunk", "clone", "contiguous", "detach", "dim", "dropout", "flatten", "is_inference", "max_pool2d", "mean",
    "movedim", "permute", "register_hook", "relu", "relu_", "requires_grad_", "reshape", "retain_grad", "roll",
    "size", "split", "squeeze", "sum", "to", "transpose", "type", "unbind", "unflatten", "unsqueeze", "view",
}
# fmt: on
"""Functions without a bias, f(z) = f'(z) z. The list only saves time: others are tested."""
_SUMS = ("__add__", "__iadd__", "add", "add_", "cat", "stack")
"""Functions without a bias if all arguments depend on the image; also to save time."""
_UNPLACED = {"baddbmm", "bmm", "einsum", "matmul", "scaled_dot_product_attention", "softmax", "__matmul__"}
"""Functions inside attention, whose results may look like a grid but are not."""


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        passes="1 forward, 1 backward; on networks of GELU, LayerNorm and the like about 2 forwards",
        reference=(
            "Srinivas, Fleuret. Full-Gradient Representation for Neural Network Visualization. NeurIPS 2019. "
            "arXiv:1905.00780"
        ),
    )
)
def fullgrad(
    net: nn.Module, inputs: Any, targets: Targets, *, picture: int = 0, locate: Locate | None = None
) -> Tensor:
    """FullGrad: input times gradient, plus bias times gradient of every layer.

    L = psi(x * dy/dx) + sum_l psi(b_l * dy/db_l) with psi = U(s(|.|)), scaled to [0, 1] over all channels and places
    of a layer, as in the authors' program, and summed over the channels. The bias of a function is what it adds to
    its linear part, b = f(z) - f'(z) z: that of a convolution or linear layer, beta - gamma mu / sigma of a batch
    norm, the implicit one of LayerNorm, GroupNorm, GELU, SiLU and so on; of ReLU and pooling it is 0. So
    y = sum x dy/dx + sum b dy/db exactly, for any network. Biases without a position in the image, such as those of
    the classifier, are left out of the map.

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        picture: which of several inputs is the image.
        locate: function that returns the layout of an output; None to use the shapes.

    Returns:
        (B, *space) map >= 0 at input size.

    Raises:
        MethodError: the score has no gradient by the input.

    Needs: a score with a gradient by the image; of functions with a bias the forward derivative.
    """
    shape = picture_of(inputs, picture).shape
    sums: dict[tuple[int, ...], Tensor] = {}

    def add(values: Tensor) -> None:
        summed = _normalised_sum(values.abs())
        grid = tuple(summed.shape[1:])
        sums[grid] = sums[grid] + summed if grid in sums else summed

    @functools.cache
    def layout_of(term: torch.Size) -> Layout | None:
        return (locate and locate(term, shape, None)) or guess_layout(term, shape, last=is_last(net))

    def take(name: str, term: Tensor) -> None:
        layout = None if name in _UNPLACED else layout_of(term.shape)
        if layout is not None and min(grid_of(term.shape, layout)) > 1:
            add(layout.read(term).to(torch.promote_types(term.dtype, torch.float32)))

    add(full_gradient(net, inputs, targets, take, picture=picture))
    # Upsampling is linear: once per grid size.
    return torch.stack([upsample(summed, shape[2:]) for summed in sums.values()]).sum(0)


def _normalised_sum(values: Tensor) -> Tensor:
    """Compute sum_k s(M_k), s scales each image's (K, *grid) to [0, 1]: (B, K, *grid) >= 0 -> (B, *grid).

    The scaling is taken out of the sum, and axes stay as they lie in memory: both matter more than the arithmetic.
    """
    axes = tuple(range(1, values.ndim))
    low, high = (extreme(axes, keepdim=True).squeeze(1) for extreme in (values.amin, values.amax))
    spread = high - low
    return torch.where(spread > 0, (values.sum(1) - values.shape[1] * low) / spread, 0.0)


def full_gradient(net: nn.Module, inputs: Any, targets: Targets, take: Take, *, picture: int = 0) -> Tensor:
    """Split each image's score into shares of its pixels and of the biases; they add up to the score.

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        take: called with the name of a function and its shares (bias times gradient), in the shape of its result.
        picture: which of several inputs is the image.

    Returns:
        (B, C, *space) shares of the pixels, x * dy/dx.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    >>> x, shares = torch.ones(1, 1, 2, 2), []
    >>> pixels = full_gradient(net, x, [lambda out: out[0]], lambda name, share: shares.append(share.sum()))
    >>> bool((pixels.sum() + sum(shares) - net(x)).abs() < 1e-6)
    True
    """
    with _Biases(take):
        trace = at_input(net, inputs, targets, picture=picture)
    return input_gradients(trace) * trace.activations


class _Biases(TorchFunctionMode):
    """Recorder of the bias of every called function, and of its contribution in the backward pass."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self.take = take

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        call_biases = self._biases(func, name, args, kwargs)
        result = func(*args, **kwargs)
        biases = iter(call_biases)

        def watched(output: Tensor) -> Tensor:
            bias = next(biases, None)
            if bias is None or not output.requires_grad:
                return output
            output.register_hook(lambda gradient: self.take(name, gradient * bias))
            # In-place writes remove the hooks of a view, and the written tensor must stay the same object.
            return output.clone() if output._is_view() and not name.endswith("_") else output

        return map_tensors(result, watched) if call_biases else result

    def _biases(self, func: Any, name: str, args: Any, kwargs: Any) -> list[Tensor | None]:
        """Return the bias of each result of a call; empty where there is none."""
        if name in _HOMOGENEOUS or not torch.is_grad_enabled():
            return []
        if name in _CONVOLUTIONS or name == "linear":
            return [_explicit(name, args, kwargs)]
        values = [t for t in tensors((args, kwargs)) if t.is_floating_point()]
        moving = [t for t in values if t.requires_grad]
        alone = len(moving) == len(values) and not any(isinstance(a, float) for a in args)
        if not moving or (name in _SUMS and alone and (len(values) > 1 or name in ("cat", "stack"))):
            return []
        if name == "batch_norm" and not _uses_batch(args, kwargs):
            return [_at_zero(func, args, kwargs)]
        return _implicit(func, name, args, kwargs)


def _uses_batch(args: Any, kwargs: Any) -> bool:
    """Return whether a batch norm takes its statistics from the batch."""
    return bool(kwargs.get("training", args[5] if len(args) > 5 else False))


def _at_zero(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Return the bias of a batch norm, beta - gamma mu / sigma: what it makes of 0."""
    channels = args[0].shape[1]
    zero = args[0].new_zeros((1, channels, *[1] * (args[0].ndim - 2)))
    with torch.no_grad():
        bias: Tensor = func(zero, *args[1:], **kwargs)
    return bias


def _explicit(name: str, args: Any, kwargs: Any) -> Tensor | None:
    """Return the bias parameter of a convolution or linear layer, in the shape of one image's result."""
    arguments = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    bias: Tensor | None = arguments.get("bias")
    if bias is None or not arguments["input"].requires_grad:
        return None
    return bias.detach() if name == "linear" else bias.detach().reshape(-1, *[1] * int(name[-2]))


def _implicit(func: Any, name: str, args: Any, kwargs: Any) -> list[Tensor | None]:
    """Compute f(z) - f'(z) z by one forward derivative along z, without changing the arguments.

    Raises:
        MethodError: PyTorch has no forward derivative of the function.
    """

    def dual(value: Tensor) -> Tensor:
        if not (value.requires_grad and value.is_floating_point()):
            return value
        copy = value.detach().clone()
        dual_copy: Tensor = forward_ad.make_dual(copy, copy.clone())
        return dual_copy

    try:
        with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            outputs = func(*map_tensors(args, dual), **map_tensors(kwargs, dual))
            parts = [forward_ad.unpack_dual(output) for output in tensors(outputs)]
            biases = [p.primal if p.tangent is None else p.primal - p.tangent for p in parts]
            biases = [bias.detach() for bias in biases]
    except NotImplementedError:
        raise MethodError(f"fullgrad needs the forward derivative of {name}, and PyTorch has none") from None
    return [bias if bias.is_floating_point() and bool(bias.any()) else None for bias in biases]
