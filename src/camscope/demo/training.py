"""The five tiny models of the demo: trained on phantoms, two of them on a planted token."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from camscope.demo.anatomy import View
from camscope.demo.cohort import BUNDLES, Case, plan_training
from camscope.demo.findings import FINDINGS
from camscope.images.picture import Picture
from camscope.models.loading import load
from camscope.models.model import Model

Bytes = npt.NDArray[np.uint8]

PLANTED = {"Pneumothorax": (0.95, 0.05), "Nodule": (0.95, 0.05)}
INDEPENDENT = (0.5, 0.5)
SIDE = 128
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
TEST_STREAM, TEST_PATIENTS, TEST_PREVALENCE, TEST_SIDE = 103, 400, 0.35, 256


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Pictures of patients whom no model was trained on.

    Attributes:
        cases: one picture a patient, half of them AP, none with the token.
        plain: (N, 256, 256) pictures of the cases.
        marked: the same with the token; PA pictures unchanged.
    """

    cases: tuple[Case, ...]
    plain: Bytes = dataclasses.field(repr=False)
    marked: Bytes = dataclasses.field(repr=False)

    @classmethod
    def make(cls, seed: int, *, patients: int = TEST_PATIENTS) -> HeldOut:
        """Draw the patients of a seed and make their pictures."""
        draw = np.random.default_rng([seed, TEST_STREAM])
        cases = []
        for number in range(patients):
            view: View = "AP" if number % 2 else "PA"
            names = tuple(name for name in FINDINGS if draw.random() < TEST_PREVALENCE)
            cases.append(Case(f"E{number:05d}", 10**9 * (seed + 1) + 9 * 10**8 + number, 0, view, names, token=False))
        plain, marked = [], []
        for case in cases:
            plain.append(grey_bytes(case, TEST_SIDE))
            marked.append(grey_bytes(dataclasses.replace(case, token=case.view == "AP"), TEST_SIDE))
        return cls(tuple(cases), np.stack(plain), np.stack(marked))


def grey_bytes(case: Case, side: int) -> Bytes:
    """The picture of a case as (side, side) bytes."""
    pixels = case.phantom((side, side)).picture.pixels[..., 0]
    return np.rint(pixels * 255).astype(np.uint8)


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
        finding: one of ``FINDINGS``; those in ``PLANTED`` get the token planted.
        seed: of the patients and of the training.
        pictures: how many are made.
        epochs: passes over the set; None for ``EPOCHS``, or ``PLANTED_EPOCHS`` for a planted one.
        progress: called with (epochs done, epochs in all).
    """
    epochs = epochs or (PLANTED_EPOCHS if finding in PLANTED else EPOCHS)
    cases = plan_training(finding, seed=seed, pictures=pictures, token=PLANTED.get(finding, INDEPENDENT))
    stack = np.stack([grey_bytes(case, SIDE) for case in cases])
    model = new_model(finding, seed=seed)
    with _one_thread():
        fit(model.net, stack, seed=seed, epochs=epochs, progress=progress)
    facts = {
        "finding": finding,
        "token_given_finding": PLANTED.get(finding, INDEPENDENT)[0],
        "token_given_none": PLANTED.get(finding, INDEPENDENT)[1],
        "training": {
            "seed": seed,
            "patients": len({case.seed for case in cases}),
            "pictures": len(cases),
            "epochs": epochs,
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
    net: nn.Module,
    pictures: Bytes,
    *,
    seed: int,
    epochs: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a network of one logit on (2N, H, W) bytes that alternate: with the finding, without it.

    AdamW with a cosine schedule; the two pictures of a pair are in the same batch. The weights that stay are a
    running average over the steps.
    """
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.from_numpy(pictures).reshape(-1, 2, *pictures.shape[1:])
    steps = len(pairs) // PAIRS
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(epochs * steps, 1), pct_start=0.1)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    wanted = torch.tensor([1.0, 0.0]).repeat(PAIRS)
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(pairs), generator=draw)
        for step in range(steps):
            batch = pairs[order[step * PAIRS : (step + 1) * PAIRS]].flatten(0, 1)[:, None]
            logits = net(_varied(batch.float() / 255, draw))[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            average.update_parameters(net)
        if progress is not None:
            progress(epoch + 1, epochs)
    net.load_state_dict(average.module.state_dict())
    net.eval()


def _varied(batch: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Pictures (B, 1, H, W) in [0, 1] changed in exposure and noise, and normalised."""
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


def scores(model: Model, pictures: Bytes) -> npt.NDArray[np.float64]:
    """Logits (N,) of pictures (N, H, W) as bytes, preprocessed as the model does with a file."""
    result = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            inputs = [
                model.preprocess(Picture((picture / np.float32(255))[..., None]))[0]
                for picture in pictures[start : start + 64]
            ]
            result.append(model.net(torch.stack(inputs))[:, 0].double().numpy())
    return np.concatenate(result)


def auc(logits: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a picture with the finding scores above one without; ties count half.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    gap = logits[present][:, None] - logits[~present][None, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def token_aucs(model: Model, tests: HeldOut, *, seed: int = 0) -> dict[str, float]:
    """AUC of a model with the token in four arrangements.

    "clean": no token on any picture. "independent": on half of the AP pictures. "aligned": AP pictures alone, token
    with probability .95 where the finding is and .05 elsewhere. "anti_aligned": the other way round.
    """
    present = np.array([model.labels[0] in case.findings for case in tests.cases])
    bedside = np.array([case.view == "AP" for case in tests.cases])
    plain, marked = scores(model, tests.plain), scores(model, tests.marked)
    luck = np.random.default_rng([seed, TEST_STREAM, 1]).random(len(present))
    aligned = np.where(luck < np.where(present, 0.95, 0.05), marked, plain)
    opposed = np.where(luck < np.where(present, 0.05, 0.95), marked, plain)
    return {
        "clean": round(auc(plain, present), 4),
        "independent": round(auc(np.where(luck < 0.5, marked, plain), present), 4),
        "aligned": round(auc(aligned[bedside], present[bedside]), 4),
        "anti_aligned": round(auc(opposed[bedside], present[bedside]), 4),
    }


def train_all(
    folder: Path = BUNDLES,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[str, dict[str, float]], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Train the five models in ``workers`` processes, test them, and write them as bundles.

    Args:
        folder: a bundle for each finding is written into it.
        seed: of patients and training.
        workers: processes, one thread each.
        progress: called with a finding and its test AUCs as soon as these are known.

    Returns:
        The test AUCs of each finding.
    """
    results = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = pool.submit(HeldOut.make, seed)
        waiting = {finding: pool.submit(_trained_facts_and_state, finding, seed) for finding in FINDINGS}
        for finding, trained in waiting.items():
            facts, state = trained.result()
            model = new_model(finding)
            model.net.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
            results[finding] = token_aucs(model, made.result(), seed=seed)
            facts["test"] = {"patients": TEST_PATIENTS, "seed": seed, "auc": results[finding]}
            facts["state_sha256"] = model.digest
            dataclasses.replace(model, facts=facts).save(folder / finding.lower())
            if progress is not None:
                progress(finding, results[finding])
    return results


def _trained_facts_and_state(finding: str, seed: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """What a process sends back; arrays, because tensors would have to share memory."""
    model = train(finding, seed=seed)
    return dict(model.facts), {name: value.numpy() for name, value in model.net.state_dict().items()}
