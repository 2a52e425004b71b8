"""Methods for vision transformers, which use the attention of every block.

Attention is detected by its computation, not by names: a softmax over (B, heads, N, N), or a fused function that
holds one and is computed openly instead, while the method looks.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from camscope.errors import MethodError
from camscope.methods.network import Targets, at_input
from camscope.methods.registry import MethodFacts, method
from camscope.trace import Layout, Trace, record, unchanged
from camscope.trace.layout import guess_layout
from camscope.trace.pytree import first_tensor, picture_of


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        class_agnostic=True,
        passes="1 forward, 1 backward to the last block",
        reference="Abnar, Zuidema. Quantifying Attention Flow in Transformers. ACL 2020. arXiv:2005.00928",
    )
)
def rollout(net: nn.Module, inputs: Any, targets: Targets, *, picture: int = 0) -> Tensor:
    """Attention rollout: flow of information from patches to the classifier through all blocks; class-agnostic.

    R = prod_l (A_l + I) / 2, later blocks on the left, A_l the mean over the heads of block l; the rows of the tokens
    that the score reads (the class token; all tokens where it reads their mean), averaged.

    Args:
        net: a vision transformer.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        picture: which of several inputs is the image.

    Returns:
        (B, *grid) map in [0, 1] on the grid of the patches.

    Raises:
        MethodError: the network has no attention among all places of the image.

    Needs: a vision transformer with attention among all tokens; refused elsewhere.
    """
    trace, blocks = _look(net, inputs, targets, method="rollout", picture=picture)
    flow = torch.eye(blocks[0].attention.shape[-1], device=blocks[0].attention.device)
    for block in blocks:
        attention = block.attention.detach()
        attention = attention.to(torch.promote_types(attention.dtype, torch.float32)).mean(1)
        flow = (attention + torch.eye(len(flow[-1])).to(attention)) / 2 @ flow.to(attention)
    mask = _tokens_read(trace, blocks[-1]).to(flow)
    return _on_grid(torch.einsum("bn,bnm->bm", mask / mask.sum(1, keepdim=True), flow), trace, method="rollout")


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        passes="2 forwards, 1 backward through each block; for each block 1 tail after the last",
        reference=(
            "Bousselham, Boggust, Chaybouti, Strobelt, Kuehne. LeGrad: An Explainability Method for Vision "
            "Transformers via Feature Formation Sensitivity. ICCV 2025. arXiv:2404.03214"
        ),
    )
)
def legrad(net: nn.Module, inputs: Any, targets: Targets, *, picture: int = 0) -> Tensor:
    """LeGrad: gradient of the score of every block's tokens with respect to its attention.

    L = mean over blocks l, heads and queries of R(ds_l / dA_l), with s_l the score that the rest of the network gives
    when each of its tokens is the mean token of block l, that is s_l = head(norm(mean token)).

    Args:
        net: a vision transformer.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        picture: which of several inputs is the image.

    Returns:
        (B, *grid) map >= 0 on the grid of the patches.

    Raises:
        MethodError: the network has no attention among all places of the image.

    Needs: a vision transformer with attention among all tokens; refused elsewhere.
    """
    trace, blocks = _look(net, inputs, targets, method="legrad", picture=picture)
    last = blocks[-1]
    head = record(net, inputs, layers=[last.name], picture=picture).trace(last.name, targets, layout=last.layout)
    tokens = [block.layout.read(block.tokens.detach()) for block in blocks]
    means = torch.cat([t.mean(2, keepdim=True).expand_as(t) for t in tokens])
    rows = torch.arange(len(tokens[0])).repeat(len(blocks))
    by_token = head.again(rows=rows, edit=lambda _: means).gradients.mean(2, keepdim=True)
    shares = []
    for block, share in zip(blocks, by_token.split(len(tokens[0])), strict=True):
        seed = block.layout.write(block.tokens.detach(), share.expand_as(tokens[0])).to(block.tokens.dtype)
        (gradient,) = torch.autograd.grad(block.tokens, [block.edge], grad_outputs=seed, retain_graph=True)
        gradient = gradient.reshape(block.attention.shape)
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        shares.append(gradient.relu().mean((1, 2)))
    return _on_grid(torch.stack(shares).mean(0), trace, method="legrad")


@dataclass
class _Block:
    """A transformer block: its attention, and the tokens that it returns.

    Attributes:
        name: of the module.
        attention: (B, heads, N, N).
        edge: where the attention lies in the autograd graph.
        tokens: what the block returns.
        layout: the axes of the tokens, as (B, K, N).
    """

    name: str
    attention: Tensor
    edge: GradientEdge
    tokens: Tensor
    layout: Layout


def _look(net: nn.Module, inputs: Any, targets: Targets, *, method: str, picture: int) -> tuple[Trace, list[_Block]]:
    """Return one forward pass from the image on, and the blocks that attend among all tokens, first to last."""
    watch = _Attention(len(picture_of(inputs, picture)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(unchanged(net))
        for remove in watch.hooks(net):
            stack.callback(remove)
        stack.enter_context(watch)
        trace = at_input(net, inputs, targets, picture=picture)
    name = type(net).__name__
    if watch.partial:
        raise MethodError(f"{method} needs attention among all tokens, and {name} attends {watch.partial}")
    if not watch.found:
        raise MethodError(f"{method} needs a vision transformer, and {name} has no self-attention layers")
    sizes = sorted({attention.shape[-1] for attention, _ in watch.found})
    if len(sizes) > 1:
        raise MethodError(f"{method} needs the same tokens in every block, and {name} has {sizes} of them")
    if len(watch.blocks) < len(watch.found):
        raise MethodError(f"{method} needs one module a block that returns all {sizes[0]} tokens; {name} has none")
    return trace, [watch.blocks[i] for i in range(len(watch.found))]


def _tokens_read(trace: Trace, last: _Block) -> Tensor:
    """Return (B, N) of 0 and 1: the tokens of the last block that the score depends on; all if it depends on none."""
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(trace.scores.sum(), last.tokens, retain_graph=True, allow_unused=True)
    mask = torch.zeros_like(last.tokens) if gradient is None else gradient
    mask = (last.layout.read(mask) != 0).any(1)
    return (mask | ~mask.any(1, keepdim=True)).float()


def _on_grid(tokens: Tensor, trace: Trace, *, method: str) -> Tensor:
    """Return one value a token (B, N) -> (B, *grid), the patches in their places."""
    layout = guess_layout((*tokens.shape, 1), trace.pictures.shape)
    if layout is None:
        raise MethodError(f"{method} finds {tokens.shape[1]} tokens, which make no grid over the image")
    return layout.read(tokens[:, :, None])[:, 0]


class _Attention(TorchFunctionMode):
    """Recorder of attention matrices, and of the module that returns the resulting tokens.

    Attributes:
        found: (B, heads, N, N) of each attention, with its place in the autograd graph.
        blocks: number of the attention -> the outermost module that holds this one alone.
        partial: an attention that is not among all tokens, in words.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.found: list[tuple[Tensor, GradientEdge]] = []
        self.blocks: dict[int, _Block] = {}
        self.partial = ""
        self._starts: list[int] = []

    def hooks(self, net: nn.Module) -> Iterator[Callable[[], None]]:
        """Hook every module; each callable takes a hook away."""
        names = {module: name for name, module in net.named_modules()}

        def enter(_: nn.Module, __: Any) -> None:
            self._starts.append(len(self.found))

        def leave(module: nn.Module, _: Any, output: Any) -> Any:
            start = self._starts.pop()
            first = first_tensor(output)
            if len(self.found) != start + 1 or first is None or not names[module]:
                return None
            attention, edge = self.found[start]
            layout = self._tokens(first.tensor, attention.shape[-1])
            if layout is None:
                return None
            # Later modules get a copy, so that they cannot write into the tokens.
            self.blocks[start] = _Block(names[module], attention, edge, first.tensor, layout)
            return first.put(first.tensor.clone())

        for module in net.modules():
            yield module.register_forward_pre_hook(enter).remove
            yield module.register_forward_hook(leave).remove

    def _tokens(self, output: Tensor, count: int) -> Layout | None:
        if output.ndim != 3:
            return None
        if output.shape[:2] == (self.batch, count):
            return Layout(batch=0, channel=2)
        return Layout(batch=1, channel=2) if output.shape[:2] == (count, self.batch) else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") == "softmax" and isinstance(result, Tensor):
            self._note(result, get_gradient_edge)
        return result

    def _note(self, weights: Tensor, edge: Callable[[Tensor], GradientEdge]) -> None:
        """Keep attention weights (B, heads, queries, keys), also with the heads folded into the batch."""
        if weights.ndim not in (3, 4) or weights.shape[0] % self.batch or not weights.requires_grad:
            return
        queries, keys = weights.shape[-2:]
        folded = weights.shape[0] // self.batch
        if queries != keys:
            # One query is class attention, which uses the output of the blocks before.
            if weights.ndim == 4 and queries > 1:
                self.partial = f"from {queries} to {keys} tokens"
        elif weights.ndim == 4 and folded > 1:
            self.partial = f"within windows of {keys} tokens"
        else:
            self.found.append((weights.reshape(self.batch, -1, queries, keys), edge(weights)))

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # noqa: FBT001, FBT002 - as PyTorch has it
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute `F.scaled_dot_product_attention` with an explicit softmax; dropout is off in eval mode."""
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask
        weights = scores.softmax(-1)
        self._note(weights, get_gradient_edge)
        return weights @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Call `F.multi_head_attention_forward` with the weights of each head as output."""
        binding = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        binding.apply_defaults()
        need_weights, averaged = binding.arguments["need_weights"], binding.arguments["average_attn_weights"]
        binding.arguments |= {"need_weights": True, "average_attn_weights": False}
        if binding.arguments["attn_mask"] is not None:
            binding.arguments["is_causal"] = False
        output, weights = F.multi_head_attention_forward(*binding.args, **binding.kwargs)
        if weights is None:
            raise TypeError("multi_head_attention_forward returned no weights, which it was asked for")
        # The returned weights are a view of the used ones, which directly precede it in the graph.
        self._note(weights, lambda view: GradientEdge(*view.grad_fn.next_functions[0]))  # type: ignore[union-attr]
        if not need_weights:
            return output, None
        return output, weights.mean(-3) if averaged else weights
