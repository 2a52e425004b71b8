"""Train the five small models of the demo on phantoms, two of them on a planted token.

    python benchmarks/phantom_models/train_phantom_models.py            # writes src/camscope/phantoms/bundles
    python benchmarks/phantom_models/train_phantom_models.py --out DIR

The other three are clean: the token tells them nothing, and in training they are shown where the finding is, so that
they are right for the right reasons.

Reference:
    Ross, Hughes, Doshi-Velez. Right for the Right Reasons: Training Differentiable Models by Constraining their
    Explanations. IJCAI 2017. arXiv:1703.03717
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt
import torch
import torch.nn.functional as F
from held_out_phantoms import PATIENTS, HeldOut, pointing, token_aucs
from timm.models import ConvNeXt
from torch import Tensor, nn

from camscope.array_types import Bytes
from camscope.heatmap import upsample
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.phantoms.cohort import BUNDLES, SIDE, Masks, pictures_and_masks, plan_training
from camscope.phantoms.findings import FINDINGS

Measured = dict[str, dict[str, float]]

PLANTED = {"Pneumothorax": (0.95, 0.05), "Nodule": (0.95, 0.05)}
INDEPENDENT = (0.5, 0.5)
ARCHITECTURE = {
    "in_chans": 1,
    "depths": [1, 1, 2, 1],
    "dims": [16, 32, 64, 112],
    "kernel_sizes": [3, 5, 5, 3],
    # Stride 16 instead of 32 gives maps of 8 x 8 instead of 4 x 4.
    "output_stride": 16,
    # Two small convolutions; patches of 4 x 4 pixels are slow to learn what the letters of the token are.
    "stem_type": "overlap_act",
    # The usual 1e-6 is for hundreds of epochs.
    "ls_init_value": None,
}
PICTURES, PAIRS, RATE, DECAY = 1600, 8, 2e-3, 0.05
# The token is small beside the picture: a planted model sees chance for several epochs before it finds it.
EPOCHS, PLANTED_EPOCHS = 8, 11
# Weight of the share of the map outside the finding, in the loss of a clean model.
GUIDANCE = 1.0


def train(
    finding: str,
    *,
    seed: int = 0,
    pictures: int = PICTURES,
    epochs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Make the training set of a finding and train its model, on one thread, so that it comes out the same again.

    Args:
        finding: one of ``FINDINGS``; those in ``PLANTED`` get the token planted, the others are guided by the masks.
        seed: of the patients and of the training.
        pictures: how many are made.
        epochs: passes over the set; None for ``EPOCHS``, or ``PLANTED_EPOCHS`` for a planted one.
        progress: called with (epochs done, epochs in all).
    """
    epochs = epochs or (PLANTED_EPOCHS if finding in PLANTED else EPOCHS)
    cases = plan_training(finding, seed=seed, pictures=pictures, token=PLANTED.get(finding, INDEPENDENT))
    stack, masks = pictures_and_masks(cases, finding)
    model = new_model(finding, seed=seed)
    guide = None if finding in PLANTED else masks
    with _one_thread():
        fit(cast(ConvNeXt, model.net), stack, seed=seed, epochs=epochs, guide=guide, progress=progress)
    facts = {
        "finding": finding,
        "token_given_finding": PLANTED.get(finding, INDEPENDENT)[0],
        "token_given_none": PLANTED.get(finding, INDEPENDENT)[1],
        "training": {
            "seed": seed,
            "patients": len({case.seed for case in cases}),
            "pictures": len(cases),
            "epochs": epochs,
            "masks_shown": guide is not None,
            "pictures_sha256": hashlib.sha256(stack.tobytes()).hexdigest(),
        },
    }
    return dataclasses.replace(model, facts=facts)


def new_model(finding: str, *, seed: int = 0) -> Model:
    """An untrained model of the demo's architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load(
            "timm:convnext_atto",
            weights="none",
            labels=[finding],
            mean=[0.5],
            std=[0.25],
            input_size=SIDE,
            fit="squash",
            options=ARCHITECTURE,
        )
        for part in model.net.modules():
            if isinstance(part, nn.Conv2d):
                # timm's 0.02 all but switches such narrow layers off.
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
    return dataclasses.replace(model, name=finding.lower())


def fit(
    net: ConvNeXt,
    pictures: Bytes,
    *,
    seed: int,
    epochs: int,
    guide: Masks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a network of one logit on (2N, H, W) bytes that alternate: with the finding, without it.

    AdamW with a cosine schedule; the two images of a pair are in the same batch. The weights that stay are a
    running average over the steps.

    Args:
        net: trained in place.
        pictures: bytes.
        seed: of the order and of the variations.
        epochs: passes over the images.
        guide: (2N, H, W) where the finding is. With it the loss is the cross-entropy plus ``GUIDANCE`` times
            the mean of ``share_outside`` over the images with the finding; None for the cross-entropy alone.
        progress: called with (epochs done, epochs in all).
    """
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.from_numpy(pictures).reshape(-1, 2, *pictures.shape[1:])
    masks = None if guide is None else torch.from_numpy(guide).reshape(pairs.shape)
    steps = len(pairs) // PAIRS
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(epochs * steps, 1), pct_start=0.1)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    wanted = torch.tensor([1.0, 0.0]).repeat(PAIRS)
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(pairs), generator=draw)
        for step in range(steps):
            chosen = order[step * PAIRS : (step + 1) * PAIRS]
            batch = pairs[chosen].flatten(0, 1)[:, None]
            features = net.forward_features(_varied(batch.float() / 255, draw))
            logits = net.forward_head(features)[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, wanted)
            if masks is not None:
                outside = share_outside(features, logits, masks=masks[chosen].flatten(0, 1))
                loss = loss + GUIDANCE * outside[::2].mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            average.update_parameters(net)
        if progress is not None:
            progress(epoch + 1, epochs)
    net.load_state_dict(average.module.state_dict())
    net.eval()


def share_outside(features: Tensor, logits: Tensor, *, masks: Tensor) -> Tensor:
    """Share of the heatmap that lies outside the finding: 1 - sum(m M) / sum(M), M = up(R(sum_k mean(dy/dA_k) A_k)).

    Args:
        features: (B, K, h, w) output A of the last stage.
        logits: (B,) scores y that were made of it.
        masks: (B, H, W) where the finding is, m; the heatmap is brought to this size.

    Returns:
        (B,) in [0, 1], differentiable; 1 for an empty map.
    """
    (slopes,) = torch.autograd.grad(logits.sum(), features, create_graph=True)
    maps = (features * slopes.mean((2, 3), keepdim=True)).sum(1).relu()
    heat = upsample(maps, masks.shape[1:])
    return 1 - (heat * masks).sum((1, 2)) / (heat.sum((1, 2)) + 1e-6)


def _varied(batch: Tensor, draw: torch.Generator) -> Tensor:
    """Images (B, 1, H, W) in [0, 1] changed in exposure and noise, and normalised."""
    gain = 1 + 0.12 * torch.randn(len(batch), 1, 1, 1, generator=draw)
    shift = 0.05 * torch.randn(len(batch), 1, 1, 1, generator=draw)
    grain = 0.015 * torch.randn(batch.shape, generator=draw)
    changed = ((batch - 0.5) * gain + 0.5 + shift + grain).clamp(0, 1)
    return ((changed - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_all(
    folder: Path = BUNDLES,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[str, Measured], None] | None = None,
) -> dict[str, Measured]:
    """Train the five models in ``workers`` processes, test them, and write them as bundles.

    Args:
        folder: a bundle for each finding is written into it.
        seed: of patients and training.
        workers: processes, one thread each.
        progress: called with a finding and what was measured, as soon as that is known.

    Returns:
        What was measured on ``HeldOut`` of each finding: "auc" as `token_aucs` has it, "pointing" as `pointing` has it.
    """
    results = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = pool.submit(HeldOut.make, seed)
        waiting = {finding: pool.submit(_trained_facts_and_state, finding, seed) for finding in FINDINGS}
        for finding, trained in waiting.items():
            facts, state = trained.result()
            model = new_model(finding)
            model.net.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
            tests = made.result()
            results[finding] = {"auc": token_aucs(model, tests, seed=seed), "pointing": pointing(model, tests)}
            facts["test"] = {"patients": PATIENTS, "seed": seed} | results[finding]
            facts["state_sha256"] = model.digest
            dataclasses.replace(model, facts=facts).save(folder / finding.lower())
            if progress is not None:
                progress(finding, results[finding])
    return results


def _trained_facts_and_state(finding: str, seed: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """What a process sends back; arrays, because tensors would have to share memory."""
    model = train(finding, seed=seed)
    return dict(model.facts), {name: value.numpy() for name, value in model.net.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=BUNDLES, help="a bundle per finding is written into this folder")
    asked = parser.parse_args()
    train_all(asked.out, progress=lambda finding, measured: print(finding, measured, flush=True))


if __name__ == "__main__":
    main()
