"""Rollout and LeGrad from their papers, on a small ViT written out here, with its attention in the open."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import camscope as cs
from camscope.errors import MethodError

CLASSES, HEADS, DIM, DEPTH = 4, 2, 8, 2


class Attention(nn.Module):
    """Attention in one of the ways in which it is written."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        B, N, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        if self.way == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.way == "folded":
            q, k, v = (t.flatten(0, 1) for t in (q, k, v))
            out = torch.bmm(torch.bmm(q * scale, k.mT).softmax(-1), v).unflatten(0, (B, HEADS))
        elif self.way == "function":
            out = F.softmax(q @ k.mT * scale, dim=-1) @ v
        else:
            self.A = (q @ k.transpose(-2, -1) * scale).softmax(dim=-1)
            out = self.A @ v
        return self.proj(out.transpose(1, 2).reshape(B, N, DIM))


class Torch(nn.MultiheadAttention):
    """The same weights in nn.MultiheadAttention."""

    def __init__(self):
        super().__init__(DIM, HEADS, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attn = Torch() if way == "module" else Attention(way)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.in_place = way == "fused"

    def forward(self, x):
        if self.in_place:
            y = self.attn(self.norm1(x))
            y += x
            z = self.mlp(self.norm2(y))
            z += y
            return z
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches of 4, ``prefix`` tokens before them of which the first is read, or the mean of the patches."""

    def __init__(self, way="open", prefix=1, read="class"):
        super().__init__()
        self.read, self.prefix = read, prefix
        self.embed = nn.Conv2d(3, DIM, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, prefix, DIM))
        self.blocks = nn.ModuleList(Block(way) for _ in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(self.norm(x)))

    def pool(self, x):
        return x[:, 0] if self.read == "class" else x[:, self.prefix :].mean(1)


WAYS = ["function", "folded", "fused", "module"]


def make(way="open", **options):
    torch.manual_seed(0)
    reference = ViT("open", **options).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(std=0.4)
    names = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias", "proj.": "out_proj."}
    state = reference.state_dict()
    if way == "module":
        for old, new in names.items():
            state = {name.replace(f"attn.{old}", f"attn.{new}"): value for name, value in state.items()}
    net = ViT(way, **options).double().eval()
    net.load_state_dict(state)
    return net, reference


def by_hand(net, x, target):
    """Rollout and LeGrad of one image, from the papers: matrices in lists, one token at a time."""
    z = net.embed(x).flatten(2).mT
    z = torch.cat([net.tokens, z], 1)
    attention, after = [], []
    for block in net.blocks:
        z = block(z)
        attention.append(block.attn.A)
        after.append(z)
    N = z.shape[1]
    flow = torch.eye(N, dtype=torch.float64)
    for A in attention:
        flow = 0.5 * (sum(A[0, h] for h in range(HEADS)) / HEADS + torch.eye(N, dtype=torch.float64)) @ flow
    rows = [0] if net.read == "class" else list(range(net.prefix, N))
    rolled = sum(flow[row] for row in rows) / len(rows)
    legrad = torch.zeros(N, dtype=torch.float64)
    for A, z in zip(attention, after, strict=True):
        score = net.head(net.norm(z[0].mean(0)))[target]
        (gradient,) = torch.autograd.grad(score, A, retain_graph=True)
        for h in range(HEADS):
            for query in range(N):
                legrad += gradient[0, h, query].clamp(min=0) / (DEPTH * HEADS * N)
    side = x.shape[-1] // 4
    return rolled.detach()[net.prefix :].reshape(-1, side), legrad[net.prefix :].reshape(-1, side)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("prefix", "read"), [(1, "class"), (2, "mean")])
def test_rollout_and_legrad_from_the_papers(way, prefix, read, pictures, close, snapshot):
    net, reference = make(way, prefix=prefix, read=read)
    x = pictures(2, 3, 12, 16)
    before = snapshot(net)
    rolled = cs.cam(net, x, method="rollout", targets=[1, 3])
    legrad = cs.cam(net, x, method="legrad", targets=[1, 3])
    assert snapshot(net) == before
    for image, target in enumerate([1, 3]):
        expected = by_hand(reference, x[image : image + 1], target)
        close(rolled[image], expected[0], to=1e-12, table=("rollout", way, "paper"))
        close(legrad[image], expected[1], to=1e-12, table=("legrad", way, "paper"))


def test_rollout_reads_the_rows_that_the_score_reads(pictures):
    """Rows of the rollout add up to 1: over all tokens, and so over the patches where there are no others."""
    net, _ = make(prefix=0, read="mean")
    torch.testing.assert_close(
        cs.cam(net, pictures(2, 3, 16, 16), method="rollout").sum((1, 2)), torch.ones(2, dtype=torch.float64)
    )


def hf_vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        num_labels=CLASSES,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


class SequenceFirst(nn.Module):
    """nn.TransformerEncoder on tokens (N, B, K)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        layer = nn.TransformerEncoderLayer(16, 2, 32)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x).flatten(2).permute(2, 0, 1)).mean(0))


def timm_vit(**more):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return timm.models.vision_transformer.VisionTransformer(**options | more)


FAMILIES = {
    "timm": timm_vit,
    "timm registers": lambda: timm_vit(reg_tokens=4),
    "timm average": lambda: timm_vit(class_token=False, global_pool="avg"),
    "timm attention pool": lambda: timm_vit(class_token=False, global_pool="map"),
    "torchvision": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES),
    "hugging face": hf_vit,
    "sequence first": SequenceFirst,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["rollout", "legrad"])
def test_families(family, method, pictures, snapshot):
    torch.manual_seed(0)
    net = FAMILIES[family]().double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    x = pictures(3, 3, 32, 32)
    net.train()
    before = snapshot(net)
    maps = cs.cam(net, x, method=method, targets=[0, 1, 2])
    assert snapshot(net) == before
    assert maps.shape == (3, 4, 4)
    assert (maps.flatten(1).amax(1) > maps.flatten(1).amin(1)).all()
    single = cs.cam(net, x[1:2], method=method, targets=1)
    torch.testing.assert_close(maps[1:2], single, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("method", ["rollout", "legrad"])
@pytest.mark.parametrize(
    ("name", "says"),
    [("pooled", "has no self-attention layers"), ("small swin", "attends within windows of 16 tokens")],
)
def test_networks_without_attention_among_all_tokens_are_refused(method, name, says, make_net, pictures, snapshot):
    net = make_net(name)
    before = snapshot(net)
    with pytest.raises(MethodError, match=f"^{method} needs .*{says}"):
        cs.cam(net, pictures(1, 3, 64, 64), method=method, targets=1)
    assert snapshot(net) == before


def test_attention_without_block_modules_is_refused(pictures):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 2)

        def forward(self, x):
            x = self.embed(x).flatten(2).mT
            for _ in range(2):
                x = x + (x @ x.mT).softmax(-1) @ x
            return self.head(x.mean(1))

    with pytest.raises(MethodError, match="one module a block"):
        cs.cam(Flat().double(), pictures(1, 3, 16, 16), method="rollout", targets=1)
