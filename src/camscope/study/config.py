"""Read the study file: a TOML file that defines the cohort, the model of each label, and the maps."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from camscope.acquisition import PROPERTIES
from camscope.cohort.sections import (
    Boxes,
    CohortSection,
    Cue,
    Join,
    LabelRule,
    MaskSource,
    Problem,
    Section,
    TableSource,
    TextSource,
)
from camscope.errors import SettingError, StudyError, nearest, reason, shortened
from camscope.naming import IMAGE_SUFFIXES, fields_of, method_spelling

PATTERN = "{group}/{patient}/{image}/{method}_{label}_{model}.jpg"
FIELDS = ("group", "patient", "image", "method", "label", "model")

When = Literal["present", "predicted", "all"]
FillIn = Literal["impute", "blur", "donor", "mean"]


class ModelSection(Section):
    """``model = {...}``: the arguments of ``camscope.load``."""

    spec: str
    weights: str = "default"
    arch: str | None = None
    classes: int | None = None
    labels: str | tuple[str, ...] | None = None
    outcome: Literal["one", "any", "value", "boxes"] | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    input_size: int | tuple[int, int] | None = None
    fit: Literal["crop", "squash", "pad"] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    prefix: str | None = None
    ignore: str | tuple[str, ...] | None = None
    trust: bool = False
    name: str | None = None
    output: int | str | None = None

    @property
    def key(self) -> str:
        """Return a key that is equal for equal arguments, so that labels share a model."""
        return self.model_dump_json()


class LabelSection(LabelRule):
    """``[labels.NAME]``: the columns of the truth, and the model that predicts it (not needed for training)."""

    model: ModelSection = ModelSection(spec="")
    class_: Annotated[str | int | None, Field(alias="class")] = None
    threshold: float = 0.5

    @field_validator("model", mode="before")
    @classmethod
    def _spec_alone(cls, value: Any) -> Any:
        return {"spec": value} if isinstance(value, str) else value


class ExplainSection(Section):
    """``[explain]``: which maps are computed, and how they are drawn."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("gradcam",)
    when: When = "present"
    layer: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    files: str = PATTERN
    scale: str = "minmax"
    cmap: str = "byr"
    opacity: Annotated[float, Field(ge=0, le=1)] = 0.5

    @field_validator("methods")
    @classmethod
    def _spelling(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(method_spelling, value)))

    @field_validator("files")
    @classmethod
    def _pattern(cls, value: str) -> str:
        if not value:
            return value
        try:
            names = fields_of(value, FIELDS)
        except SettingError as error:
            raise ValueError(str(error)) from None
        if PurePosixPath(value).suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{value!r} must end in .jpg or .png")
        if "image" not in names or "label" not in names:
            raise ValueError(f"{value!r} gives several maps one name: it needs {{image}} and {{label}}")
        return value

    @model_validator(mode="after")
    def _one_name_a_method(self) -> ExplainSection:
        if len(self.methods) > 1 and self.files and "{method}" not in self.files:
            raise ValueError(f"files = {self.files!r} gives the maps of several methods one name: it needs {{method}}")
        return self


class AuditSection(Section):
    """``[audit]``: the tested regions and properties, and the settings of the tests."""

    disease: tuple[str, ...] = ()
    shortcuts: tuple[str, ...] = ()
    properties: tuple[str, ...] = tuple(PROPERTIES)
    reliance_map: bool = True
    delta: Annotated[float, Field(gt=0)] = 0.10
    fill_ins: Annotated[tuple[Literal["impute", "blur", "donor", "mean"], ...], Field(min_length=2)] = (
        "impute",
        "donor",
    )
    cases: Annotated[int, Field(ge=1)] = 5000
    replicates: Annotated[int, Field(ge=99, le=1_000_000)] = 10_000
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("properties")
    @classmethod
    def _known_properties(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := next((name for name in value if name not in PROPERTIES), None):
            raise ValueError(f"{nearest('property', unknown, PROPERTIES)}; expected {', '.join(PROPERTIES)}")
        return tuple(dict.fromkeys(value))

    @property
    def regions(self) -> tuple[str, ...]:
        """Return all regions, disease regions first."""
        return tuple(dict.fromkeys((*self.disease, *self.shortcuts)))


class StudyFile(Section):
    """The content of a study file."""

    cohort: CohortSection
    labels: Annotated[dict[str, LabelSection], Field(min_length=1)]
    explain: ExplainSection = ExplainSection()
    audit: AuditSection | None = None


def read_study_file(path: Path) -> StudyFile:
    """Read and check a study file; tables, images and models are not read.

    Raises:
        StudyError: lists every problem of the file with its line.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as fault:
        raise StudyError([Problem(f"cannot be read: {fault.strerror or fault}", name)]) from None
    except UnicodeDecodeError:
        raise StudyError([Problem("is not UTF-8 text: save it as UTF-8", name)]) from None
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as fault:  # numbers with too many digits, or too many brackets
        raise StudyError([Problem(f"is not TOML: {reason(fault)}", name)]) from None
    try:
        return StudyFile.model_validate(content)
    except ValidationError as fault:
        problems = [_problem(error, text, name) for error in fault.errors()]
        raise StudyError(list(dict.fromkeys(problems))) from None


def line_of(text: str, keys: Sequence[str]) -> int | None:
    r"""Return the line (from 1) of a key in a TOML text, or else the line of its table.

    >>> line_of('[a]\nb = 1\n[c.d]\ne = { f = 2 }', ["c", "d", "e", "f"])
    4
    """
    best: tuple[int, int] | None = None
    for place, number in _places(text):
        if place and tuple(keys[: len(place)]) == place and (best is None or len(place) > best[0]):
            best = len(place), number
    return best[1] if best else None


@functools.lru_cache(maxsize=1)
def _places(text: str) -> list[tuple[tuple[str, ...], int]]:
    """Return the full key and the number of each line."""
    table: tuple[str, ...] = ()
    places = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = place = _keys(stripped)
        else:
            key, equals, _ = stripped.partition("=")
            place = (*table, *_keys(f"{key}= 0")) if equals else ()
        places.append((place, number))
    return places


def _keys(statement: str) -> tuple[str, ...]:
    """Return the full key of a TOML statement; () for an incomplete statement."""
    try:
        content: Any = tomllib.loads(statement)
    except (ValueError, RecursionError):
        return ()
    keys = []
    while isinstance(content, dict) and len(content) == 1:
        key, content = next(iter(content.items()))
        keys.append(key)
    return tuple(keys)


_EXPECTED = {
    "tuple_type": "expected a list",
    "dict_type": "expected settings in braces",
    "model_type": "expected a text, or settings in braces",
}


def _problem(error: Any, text: str, name: str) -> Problem:
    """Return an error of pydantic as a problem of the study file."""
    place = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    if place[-1:] == ["[key]"]:
        place.pop()
    where = ".".join(place)
    if error["loc"][-1:] == ("[key]",):
        words = f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}"
    elif error["type"] == "extra_forbidden":
        words = f"{nearest('setting', place[-1], _known(place[:-1]))} in [{'.'.join(place[:-1])}]"
    elif error["type"] == "missing":
        words = f"{where} is missing: add it"
    elif error["type"] == "too_short":
        words = f"{where} needs at least {error['ctx']['min_length']} entries, but has {error['ctx']['actual_length']}"
    elif error["type"] == "value_error":
        words = str(error["ctx"]["error"])
    else:
        expected = _EXPECTED.get(error["type"], f"{error['msg'][0].lower()}{error['msg'][1:]}")
        words = f"{where} = {shortened(error['input'])}: {expected}"
    return Problem(words, name, line_of(text, place))


_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    (r"cohort", CohortSection),
    (r"cohort\.cues\.[^.]+", Cue),
    (r"cohort\.join\.\d+", Join),
    (r"cohort\.boxes", Boxes),
    (r"cohort\.(.+\.)?table", TableSource),
    (r"cohort\.(image|patient|columns\..+)", TextSource),
    (r"cohort\.masks\..+|.+\.mask", MaskSource),
    (r"labels\.[^.]+", LabelSection),
    (r"labels\..+\.model", ModelSection),
    (r"explain", ExplainSection),
    (r"audit", AuditSection),
)
"""Full key -> section."""


def _known(place: Sequence[str]) -> list[str]:
    """Return the names of the settings of a section, by its full key."""
    name = ".".join(place)
    section = next((section for keys, section in _SECTIONS if re.fullmatch(keys, name)), StudyFile)
    return [field.alias or name for name, field in section.model_fields.items()]
