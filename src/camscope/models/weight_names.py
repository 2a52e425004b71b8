"""Match the names of a weights file to those of a network."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from camscope.errors import ModelError, SettingError

State = dict[str, torch.Tensor]

# Wrappers of a module or of a part of it, which are not in the names of the network.
_ADAPTER = re.compile(r"(?:^|\.)(lora_|ia3_l|hada_w|lokr_w|oft_r|vera_lambda)")
"""Names of weights of peft adapters."""
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Names of copies that follow the trained network: moving averages, teachers, momentum encoders.
_COPIES = re.compile(
    r"(?:^|[._])(ema|swa|avg|averaged?|teacher|momentum|target|shadow|encoder_k)(?:[._]|$)", re.IGNORECASE
)
# Buffers that follow from the architecture, or that count and profile; they do not affect outputs.
_BOOKKEEPING = (
    *("num_batches_tracked", "total_ops", "total_params", "relative_position_index", "relative_coords_table"),
    *("attn_mask", "position_ids"),
)
_OLD = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12](?:\.|$))")
_SHOWN = 4
# Minimum share of the network's weights below a prefix; less is a coincidence.
_LEAST_SHARE = 0.25
_COPY_SHARE = 0.5


@dataclass(frozen=True)
class KeyFilter:
    """The part of a weights file that fills the network.

    Attributes:
        prefix: the beginning of the names of the network's weights, such as "encoder"; None: detected.
        ignore: patterns of names to leave out, such as "criterion.*".
        new_classes: number of outputs of a classifier that may stay random; 0: the file has to fill the classifier.
    """

    prefix: str | None = None
    ignore: tuple[str, ...] = ()
    new_classes: int = 0

    @classmethod
    def of(cls, prefix: str | None, ignore: Sequence[str] | str | None, *, new_classes: int = 0) -> KeyFilter:
        """Return the filter for the arguments of `load`; patterns in one string are separated by commas.

        >>> KeyFilter.of("net", "criterion.*, ema.*").ignore
        ('criterion.*', 'ema.*')
        """
        patterns = ignore.split(",") if isinstance(ignore, str) else ignore or ()
        return cls(prefix, tuple(pattern.strip() for pattern in patterns), new_classes)

    @property
    def chooses_names(self) -> bool:
        """Return whether the caller chose names in the file."""
        return self.prefix is not None or bool(self.ignore)


ALL = KeyFilter()


@dataclass(frozen=True)
class Match:
    """Weights of a file under the names of a network.

    Attributes:
        state: the weights whose names the network has, of any shape.
        rest: the other weights, except those of a copy of the network, under their names in the file less the prefix.
        unused: names in the file of all weights that are not in ``state``.
        missing: names of the network that the file does not fill; batch counters may be missing.
        foreign: the unused names that lie inside parts of the network.
        prefix: the beginning of the names in the file.
        notes: sentences on choices that the user should know of.
        has_new_classifier: whether the classifier of the network is left as it was made.
    """

    state: State
    rest: State
    unused: list[str]
    missing: list[str]
    foreign: list[str]
    prefix: str
    notes: list[str] = field(default_factory=list)
    has_new_classifier: bool = False

    def problems(self, own: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
        """Return why the weights do not fit: kind of problem -> one phrase per weight; empty if they fit."""
        targets = {k: tensor for k, tensor in own.items() if k in self.state and isinstance(tensor, torch.Tensor)}
        shapes = [(k, tuple(self.state[k].shape), tuple(tensor.shape)) for k, tensor in targets.items()]
        problems = {
            "of another shape": [f"{k} is {have}, the network's is {want}" for k, have, want in shapes if have != want],
            "missing": self.missing,
            "unknown to the network": self.foreign,
        }
        return {kind: phrases for kind, phrases in problems.items() if phrases}


def match(
    state: Mapping[str, torch.Tensor], own: Mapping[str, object], *, keys: KeyFilter = ALL, origin: str = "the file"
) -> Match:
    """Match a file's weights to a network's.

    The names of the network are looked for below every prefix that the file's names have, and the prefix below which
    most weights fit is used. Of two that fit equally well, a moving average or teacher comes second. A classifier under
    another name is used where it is the only candidate.

    Args:
        state: name -> tensor, as in the file.
        own: state_dict of the network.
        keys: the caller's choice of names.
        origin: name of the file, for errors.

    Raises:
        SettingError: no name in the file begins with the prefix or matches a pattern of ``keys``.
        ModelError: several different networks in the file fit equally well, or it holds an adapter beside the weights.

    Examples:
        >>> own = torch.nn.Linear(2, 1).state_dict()
        >>> found = match({**{f"net.{k}": v for k, v in own.items()}, "loss.scale": torch.ones(1)}, own)
        >>> sorted(found.state), found.prefix, found.unused
        (['bias', 'weight'], 'net.', ['loss.scale'])
    """
    tensors: dict[str, torch.Tensor] = {key: tensor for key, tensor in own.items() if isinstance(tensor, torch.Tensor)}
    selection = _without(state, keys.ignore, origin)
    plain = _with_present_names(_unwrapped(selection, tensors), tensors)
    _refuse_adapters(plain, tensors, origin)
    counts = _counts(plain, tensors)
    notes: list[str] = []
    if keys.prefix is None:
        prefix = _best(plain, tensors, counts, notes)
        chain = _with_parents(prefix)
    else:
        prefix = f"{_without_wrappers(keys.prefix.rstrip('.'))}.".removeprefix(".")
        chain = [prefix]
        if not any(name.startswith(prefix) for name in plain):
            raise SettingError(f"no name in {origin} begins with {keys.prefix!r}; the names begin with {_roots(plain)}")
    sources = {key: next((p + key for p in chain if p + key in plain), None) for key in own}
    missing = [key for key, name in sources.items() if name is None and not key.endswith("num_batches_tracked")]
    copies = tuple(p for p, n in counts.items() if p not in chain and n > _COPY_SHARE * max(counts[prefix], 1))
    used_names = {name for name in sources.values() if name is not None}
    spare = [name for name in plain if name not in used_names and not (copies and name.startswith(copies))]
    head = _renamed_head(missing, spare, plain, tensors)
    if head is not None:
        file_layer, own_layer = head
        notes.append(f"{file_layer!r} of the file fills {own_layer!r} of the network, the only layer without weights")
        sources |= {f"{own_layer}.{part}": f"{file_layer}.{part}" for part in ("weight", "bias")}
        missing, spare = [], [name for name in spare if not name.startswith(f"{file_layer}.")]
    used_names = {name for name in sources.values() if name is not None}
    return Match(
        state={key: plain[name] for key, name in sources.items() if name is not None},
        rest={name.removeprefix(prefix): plain[name] for name in spare},
        unused=[name for name in plain if name not in used_names],
        missing=missing,
        foreign=_inside(spare, sources),
        prefix=prefix,
        notes=notes,
    )


def _inside(spare: Sequence[str], sources: Mapping[str, str | None]) -> list[str]:
    """Return names of another network: beside those that are used, in a part such as "layer3"."""
    pairs = [(key, name) for key, name in sources.items() if name and name.endswith(key) and "." in key]
    parts = tuple({f"{name.removesuffix(key)}{key.partition('.')[0]}." for key, name in pairs})
    return [name for name in spare if name.startswith(parts) and not name.endswith(_BOOKKEEPING)]


def summary(names: Sequence[str]) -> str:
    """Return names in short: those with a common first part as one pattern with their number.

    >>> summary(["ema.conv.weight", "ema.conv.bias", "criterion.pos_weight"])
    'ema.* (2 names), criterion.pos_weight'
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    entries = [g[0] if len(g) == 1 else f"{first}.* ({len(g)} names)" for first, g in groups.items()]
    return shortened(entries, separator=", ")


def shortened(listed: Sequence[str], *, separator: str = "; ") -> str:
    """Return the first few items as text, and the number of the others.

    >>> shortened(["a", "b", "c", "d", "e"])
    'a; b; c; d and 1 more'
    """
    suffix = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return separator.join(listed[:_SHOWN]) + suffix


def _without(state: Mapping[str, torch.Tensor], patterns: Iterable[str], origin: str) -> State:
    """Return the weights that no pattern leaves out."""
    weights = dict(state)
    for pattern in patterns:
        left_out = fnmatch.filter(state, pattern)
        if not left_out:
            raise SettingError(f"ignore={pattern!r} matches no name in {origin}; the names begin with {_roots(state)}")
        weights = {name: tensor for name, tensor in weights.items() if name not in set(left_out)}
    return weights


def _refuse_adapters(plain: State, own_state: Mapping[str, object], origin: str) -> None:
    """Raise where weights of an adapter would be left out: the base weights alone are another model."""
    adapters = [name for name in plain if _ADAPTER.search(name)]
    if adapters and not any(_ADAPTER.search(name) for name in own_state):
        kind = _ADAPTER.search(adapters[0])
        raise ModelError(
            f"{origin} holds an adapter that is not merged into the weights ({summary(adapters)}): merge it first "
            f"(merge_and_unload() of peft), or explain the model without it (ignore='*{kind and kind[1]}*')"
        )


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _unwrapped(state: State, own_state: Mapping[str, object]) -> State:
    """Return the weights without the names that DataParallel, torch.compile and others insert."""
    if any(not _WRAPPERS.isdisjoint(name.split(".")) for name in own_state):
        return state
    plain = {_without_wrappers(name): tensor for name, tensor in state.items()}
    return plain if len(plain) == len(state) else state


def _with_present_names(plain: State, own_state: Mapping[str, object]) -> State:
    """Return the weights with names of modules that may have no dot any more: DenseNet's "norm.1" is "norm1" today.

    Files that torchvision published before 2018 have the old names, and so do fine-tuned copies of them.
    """
    if any(_OLD.search(name) for name in own_state) or not any(_OLD.search(name) for name in plain):
        return plain
    return {_OLD.sub(r"\1\2", name): tensor for name, tensor in plain.items()}


def _counts(plain: State, own_state: Mapping[str, torch.Tensor]) -> Counter[str]:
    """Return prefix -> number of weights below it whose name and shape match the network's."""
    counts: Counter[str] = Counter()
    for name, tensor in plain.items():
        starts = (0, *(i + 1 for i, letter in enumerate(name) if letter == "."))
        for start in starts:
            if name[start:] in own_state:
                # A weight of another shape still shows the prefix.
                counts[name[:start]] += 2 if _same_shape(tensor, own_state[name[start:]]) else 1
    return counts


def _best(plain: State, own_state: Mapping[str, torch.Tensor], counts: Counter[str], notes: list[str]) -> str:
    """Return the prefix below which most weights fit."""
    most = max(counts.values(), default=0)
    if most < 2 * _LEAST_SHARE * len(own_state):
        return _common_prefix(plain)
    equal = sorted((p for p, n in counts.items() if n == most), key=lambda p: (bool(_COPIES.search(p)), len(p), p))
    first, rivals = equal[0], [p for p in equal[1:] if _differ(plain, own_state, equal[0], p)]
    if not rivals:
        return first
    if not _COPIES.search(first) and all(_COPIES.search(p) for p in rivals):
        names = ", ".join(repr(p) for p in rivals)
        notes.append(
            f"the file holds the network several times: the weights below {first!r} are used, not the copy below "
            f"{names} (prefix={rivals[0].rstrip('.')!r} takes the copy)"
        )
        return first
    several = ", ".join(repr(p.rstrip(".")) for p in equal)
    raise ModelError(
        f"the file holds several networks that fit equally well: choose one with prefix=; possible: {several}"
    )


def _with_parents(prefix: str) -> list[str]:
    """Return the prefix and the shorter ones that it begins with.

    >>> _with_parents("model.backbone.")
    ['model.backbone.', 'model.', '']
    """
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]


def _differ(plain: State, own_state: Mapping[str, torch.Tensor], first: str, second: str) -> bool:
    pairs = [(plain.get(first + key), plain.get(second + key)) for key in own_state]
    return any(a is not None and b is not None and not _same(a, b) for a, b in pairs) or all(
        a is None or b is None for a, b in pairs
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (_same_shape(a, b) and bool(torch.equal(a, b)))


def _same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape


def _common_prefix(names: Iterable[str]) -> str:
    """Return the dotted beginning that all names have.

    >>> _common_prefix(["model.a.x", "model.b"])
    'model.'
    """
    parts = [name.split(".")[:-1] for name in names]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(f"{column[0]}.")
    return "".join(common)


def _roots(names: Iterable[str]) -> str:
    return shortened([repr(root) for root in dict.fromkeys(name.partition(".")[0] for name in names)], separator=", ")


def layers_with_bias(names: Iterable[str]) -> list[str]:
    """Return the layers of which both weight and bias are among the names.

    >>> layers_with_bias(["fc.weight", "fc.bias", "norm.weight"])
    ['fc']
    """
    name_set = set(names)
    layers = (name.removesuffix(".weight") for name in name_set if name.endswith(".weight"))
    return sorted(layer for layer in layers if f"{layer}.bias" in name_set)


def _renamed_head(
    missing: Sequence[str], spare: Sequence[str], plain: State, own_state: Mapping[str, torch.Tensor]
) -> tuple[str, str] | None:
    """Return the one layer that the file has left over, and the one of the same shape that the network lacks."""
    own_layers, file_layers = layers_with_bias(missing), layers_with_bias(spare)
    if len(own_layers) != 1 or len(missing) != 2 or len(file_layers) != 1:
        return None
    pairs = [(plain[f"{file_layers[0]}.{part}"], own_state[f"{own_layers[0]}.{part}"]) for part in ("weight", "bias")]
    return (file_layers[0], own_layers[0]) if all(_same_shape(a, b) for a, b in pairs) else None
