"""Training images: read as `explain` reads them, then exchanged or hidden in part, and augmented."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from camscope.acquisition.property import Trait
from camscope.array_types import Mask
from camscope.cohort.case import Case
from camscope.cohort.regions import Scene, Source, at_input, check_spec, region, visible_shares
from camscope.cohort.runner import case_bytes
from camscope.errors import CamscopeError, SettingError, nearest
from camscope.images import decode, fetch, read
from camscope.models.preprocess import Preprocess
from camscope.prefetch import prefetch
from camscope.progress import Progress
from camscope.training.cue_groups import CueGroups
from camscope.training.dataset import Dataset
from camscope.training.exchange import Lenders, compared, exchange_kinds, exchanged, measured, with_properties
from camscope.training.region_dropout import hidden

MEMORY = 2**30
"""Bytes of inputs that are kept from one epoch to the next; other inputs are read again in each epoch."""

_HALF = 0.5
_DEGREES, _SHIFT, _ZOOM, _LIGHT = 10, 0.05, 0.1, 0.15


class PreparedImage(NamedTuple):
    """A case as input of the network, before augmentation.

    Attributes:
        x: (C, h, w) normalised input.
        visible: (h, w), true where the input shows the image, and not padding.
        places: for each region to hide and then to exchange, its mask (h, w); None if the image has no such region.
        reason: (h, w), true where the evidence should lie; None if unknown.
        traits: name of each property to exchange -> trait of the image.
    """

    x: Tensor
    visible: Mask
    places: tuple[Mask | None, ...] = ()
    reason: Mask | None = None
    traits: Mapping[str, Trait] = MappingProxyType({})


@dataclass(frozen=True)
class Preparation:
    """Make inputs of cases: `camscope.images` reads the image, the model's preprocessing crops and scales it.

    Attributes:
        preprocess: preprocessing of the model.
        masks: names that masks can have.
        hide: regions to hide, such as "border:0.1".
        reasons: name of the mask outside of which attribution is penalised; None for no penalty.
        exchange: regions and acquisition properties to exchange, such as "border:0.15" and "contrast".
        regions: regions to hide, and then those to exchange.
        properties: properties to exchange.
    """

    preprocess: Preprocess
    masks: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    reasons: str | None = None
    exchange: tuple[str, ...] = ()
    regions: tuple[str, ...] = field(init=False)
    properties: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Reject regions and masks that the data do not have."""
        for spec in self.hide:
            check_spec(spec, masks=self.masks, cues=self.masks)
        if self.reasons is not None and self.reasons not in self.masks:
            raise SettingError(f"{nearest('mask', self.reasons, self.masks)} in the data")
        fixed = (*self.hide, *([] if self.reasons is None else [self.reasons]))
        regions, properties = exchange_kinds(self.exchange, masks=self.masks, fixed=fixed)
        object.__setattr__(self, "regions", (*self.hide, *regions))
        object.__setattr__(self, "properties", properties)

    def __call__(self, case: Case) -> PreparedImage:
        """Read a case.

        Raises:
            CamscopeError: its file or one of its masks cannot be read.
        """
        return self.of(case, fetch(case.source))

    def of(self, case: Case, content: bytes) -> PreparedImage:
        """Make the input of a case from the bytes of its file."""
        picture = decode(content, case.source)
        x, window = self.preprocess(picture)
        size = self.preprocess.input_size
        view = visible_shares(window, size) >= _HALF

        def source(name: str) -> Source:
            return (lambda: case.mask(name, picture.size)) if name in case.masks else None

        sources = {name: source(name) for name in self.masks}
        scene = Scene(picture.size, window, picture.pixels, sources, sources)

        def placed(spec: str, grow: int) -> Mask | None:
            mask = region(spec, scene)
            return None if mask is None else at_input(mask, window, size, grow=grow)

        return PreparedImage(
            x,
            view,
            # Resampling spreads the content of a region by a pixel.
            tuple(placed(spec, 1) for spec in self.regions),
            None if self.reasons is None else placed(f"mask:{self.reasons}", 0),
            measured(picture, self.properties, side=max(size)),
        )

    def with_properties(self, case: Case, own: Mapping[str, Trait], other: Mapping[str, Trait]) -> Tensor:
        """Read a case, and return its input (C, h, w) with the properties of another one.

        Args:
            case: it is read again, since the properties are those of the file and not of the input.
            own: name of each property -> trait of the case.
            other: the same of the other case.
        """
        picture = with_properties(read(case.source), own, other, side=max(self.preprocess.input_size))
        return self.preprocess(picture)[0]


@dataclass(frozen=True)
class Shelf:
    """Inputs in memory, as many as fit, and which cases have the regions to hide or exchange.

    Attributes:
        inputs: index of the case -> its input.
        having: for each region, the indices of the cases that have it.
        traits: index of each readable case -> traits of the properties to exchange.
    """

    inputs: Mapping[int, PreparedImage]
    having: tuple[frozenset[int], ...]
    traits: Mapping[int, Mapping[str, Trait]]


def read_all(
    dataset: Dataset, preparation: Preparation, *, progress: Progress = lambda *_: None, memory: int = MEMORY
) -> tuple[Dataset, Shelf]:
    """Read every file once, for its hash, its input and its problems.

    Args:
        dataset: cases that have not been read.
        preparation: makes the inputs.
        progress: called with "reading images", the number of images done, and the total.
        memory: bytes of inputs to keep.

    Returns:
        The dataset, in which every case has its hash or its problem; and the inputs.
    """
    cases: list[Case] = []
    inputs: dict[int, PreparedImage] = {}
    owners: list[set[int]] = [set() for _ in preparation.regions]
    traits: dict[int, Mapping[str, Trait]] = {}

    def read(case: Case) -> tuple[Case, PreparedImage | None]:
        if case.problem:
            return case, None
        try:
            content = fetch(case.source)
            new_case = dataclasses.replace(case, sha256=hashlib.sha256(content).hexdigest())
            return new_case, preparation.of(case, content)
        except CamscopeError as error:
            return dataclasses.replace(case, problems={"": " ".join(str(error).split())}), None

    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        read_ahead = prefetch(pool, read, dataset.cases, depth=2 * threads, weigh=case_bytes)
        for number, (case, image) in enumerate(read_ahead):
            cases.append(case)
            if image is not None:
                memory -= image.x.numel() * image.x.element_size()
                if memory >= 0:
                    inputs[number] = image
                traits[number] = image.traits
                for members, mask in zip(owners, image.places, strict=True):
                    if mask is not None:
                        members.add(number)
            progress("reading images", number + 1, len(dataset.cases))
    shelf = Shelf(inputs, tuple(frozenset(members) for members in owners), traits)
    return dataclasses.replace(dataset, cases=tuple(cases)), shelf


class Pictures(data.Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """The images of a split as the network gets them, for a PyTorch loader.

    Exchange, hiding and augmentation depend on (seed, epoch, index of the image) alone, so that neither the number of
    worker processes nor an interruption changes anything. Regions and properties are exchanged in every split, also
    for validation: with them, the validation loss would choose the epoch that uses them most.

    Args:
        dataset: the cases.
        split: name of the split.
        preparation: makes inputs of cases.
        shelf: inputs in memory.
        varied: whether images are hidden in part and augmented.
        flip: whether the augmentation mirrors left and right.
        seed: random seed of exchange, hiding and augmentation.
        groups: groups of the images by label and cue; None for a loss without groups.

    Attributes:
        epoch: the current epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        preparation: Preparation,
        shelf: Shelf,
        varied: bool = False,
        flip: bool = False,
        seed: int = 0,
        groups: CueGroups | None = None,
    ) -> None:
        usable = [n for n, e in enumerate(dataset.cases) if e.split == split and not e.problem]
        self.cases, self.numbers = dataset.cases, usable
        self.truth = torch.tensor(dataset.truth(dataset.cases), dtype=torch.float32)
        self.preparation, self.shelf, self.seed, self.epoch = preparation, shelf, seed, 0
        # Only this split's own images lend regions and pixels.
        self.having = [sorted(members.intersection(usable)) for members in shelf.having]
        self.vary = _variation(preparation.preprocess, flip=flip) if varied else None
        self.groups = groups
        members = np.zeros((len(dataset.cases), 0), np.int64) if groups is None else groups.members
        self.members = torch.from_numpy(members)
        single = dataset.outcome == "one"
        self.lenders = Lenders.of(usable, self.truth[usable].double().numpy(), single=single)
        self.traits = compared({n: shelf.traits[n] for n in usable}) if preparation.properties else {}

    def __len__(self) -> int:
        return len(self.numbers)

    def order(self) -> list[int]:
        """Return the places of the images in the order of the epoch, which follows from the seed."""
        draw = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order: list[int] = torch.randperm(len(self), generator=draw).tolist()
        return order

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return an input (C, h, w), its truth (labels,), the mask of its evidence (h, w) and its groups (heads,).

        The mask is false if the evidence is unknown; there are no heads without groups.
        """
        number = self.numbers[place]
        image = self._prepared(number)
        if self.preparation.exchange:
            image = image._replace(x=self._exchanged(image, number))
        x = image.x
        reason = (
            torch.from_numpy(image.reason) if image.reason is not None else torch.zeros(x.shape[1:], dtype=torch.bool)
        )
        if self.vary is not None:
            draw = np.random.default_rng([self.seed, self.epoch, number])
            if self.preparation.hide:
                x = self._hidden(image, place, draw)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(draw.integers(2**62)))
                x, reason = self.vary(x, reason)
        return x, self.truth[number], reason, self.members[number]

    def _prepared(self, number: int) -> PreparedImage:
        image = self.shelf.inputs.get(number)
        return self.preparation(self.cases[number]) if image is None else image

    def _places(self, image: PreparedImage, regions: range, draw: np.random.Generator) -> list[Mask | None]:
        """Return where regions lie in an image, or else in another image, so that a change there is no cue."""
        masks = []
        for k in regions:
            members = self.having[k]
            lender = members[int(draw.integers(len(members)))] if members else None
            mask = image.places[k]
            masks.append(self._prepared(lender).places[k] if mask is None and lender is not None else mask)
        return masks

    def _exchanged(self, image: PreparedImage, number: int) -> Tensor:
        """Return the input with the regions and properties of another image of this split, drawn by class."""
        # A generator of its own, so that augmentation is the same with and without exchange.
        draw = np.random.default_rng([self.seed, self.epoch, number, 1])
        other = self.lenders.pick(draw)
        x = image.x
        if self.preparation.properties:
            x = self.preparation.with_properties(self.cases[number], self.traits[number], self.traits[other])
        regions = range(len(self.preparation.hide), len(self.preparation.regions))
        if not regions:
            return x
        lender = self._prepared(other)
        own_places = self._places(image, regions, draw)
        places = zip(own_places, (lender.places[k] for k in regions), strict=True)
        return torch.from_numpy(exchanged(x.numpy(), places, visible=image.visible, donor=lender.x.numpy()))

    def _hidden(self, image: PreparedImage, place: int, draw: np.random.Generator) -> Tensor:
        """Return the input with its regions hidden."""
        places = self._places(image, range(len(self.preparation.hide)), draw)
        masks = [mask for mask in places if mask is not None]
        donor_place = (place + int(draw.integers(1, max(len(self), 2)))) % len(self)
        donor = self._prepared(self.numbers[donor_place])
        x = hidden(image.x.numpy(), masks, visible=image.visible, donor=donor.x.numpy(), draw=draw)
        return torch.from_numpy(x)


def _variation(preprocess: Preprocess, *, flip: bool) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the augmentation: rotation by 10 degrees, shift by 5 %, zoom by 10 %, brightness and contrast by 15 %."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
    fill: dict[Any, Any] = {tv_tensors.Image: list(preprocess.mean), tv_tensors.Mask: 0}
    zoom = (1 - _ZOOM, 1 + _ZOOM)
    steps: Sequence[Any] = [
        *([v2.RandomHorizontalFlip()] if flip else []),
        v2.RandomAffine(
            _DEGREES, translate=(_SHIFT, _SHIFT), scale=zoom, interpolation=v2.InterpolationMode.BILINEAR, fill=fill
        ),
        v2.ColorJitter(brightness=_LIGHT, contrast=_LIGHT),
    ]
    compose = v2.Compose(steps)

    def vary(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image, varied = compose(tv_tensors.Image((x * std + mean).clamp(0, 1)), tv_tensors.Mask(mask))
        return (image.as_subclass(torch.Tensor) - mean) / std, varied.as_subclass(torch.Tensor)

    return vary
