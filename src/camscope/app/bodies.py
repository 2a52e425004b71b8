"""The JSON bodies of requests, checked before anything is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, Field(max_length=300)]
Key = Annotated[str, Field(pattern="^[0-9a-f]{24}$", description="Key of a picture, from POST /api/pictures.")]
Class = Annotated[int, Field(ge=0, le=10**6)] | Text
MethodName = Annotated[str, Field(max_length=60, pattern=r"^[\w+ -]+(\([\w+ -]+\))?$")]
Reader = Annotated[str, StringConstraints(min_length=1, max_length=60, strip_whitespace=True)]
Seed = Annotated[int, Field(ge=0, le=2**31)]

MOST_MAPS = 6


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    model: Text = Field(description="Name of a loaded model, from GET /api/info.")
    picture: Key


class Contrast(BaseModel):
    """Explain a contrast of two classes: the difference of their scores."""

    model_config = ConfigDict(extra="forbid", strict=True)
    of: Class = Field(description="Class whose score counts for the map.")
    against: Class = Field(description="Class whose score counts against it.")


class PredictBody(_Body):
    """Ask for the classes of a picture."""

    count: int = Field(10, ge=1, le=1000, description="How many of the highest classes.")


class ExplainBody(_Body):
    """Ask for maps of a picture."""

    targets: list[Class | Contrast | None] = Field(
        default=[None], min_length=1, max_length=MOST_MAPS, description="Classes; null is the highest."
    )
    methods: list[MethodName] | None = Field(None, min_length=1, max_length=MOST_MAPS)
    layer: Text | None = Field(None, description="Target layer; null is the default.")


class LayersBody(_Body):
    """Ask for the map of one class at the stages of a network."""

    target: Class | Contrast | None = None
    method: MethodName = "gradcam"


class StepsBody(LayersBody):
    """Ask for the steps of one map."""

    layer: Text | None = None


class FilesBody(StepsBody):
    """Ask for a file of one map."""

    kind: Literal["original", "grayscale", "heatmap", "overlay", "panel", "npy", "json", "svg", "pdf", "zip"]
    scale: Text = "minmax"
    cmap: Text = "byr"
    opacity: float = Field(0.5, ge=0, le=1)


class MaskBody(BaseModel):
    """A region: runs of pixels of the picture at any size, row by row."""

    model_config = ConfigDict(extra="forbid", strict=True)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    runs: list[Annotated[int, Field(ge=0, le=4096**2)]] = Field(
        max_length=200_000, description="start, length, start, length, ...; starts count from 0, row by row."
    )


class RegionBody(_Body):
    """Ask what happens to a class when a region is filled in."""

    target: Class | None = Field(None, description="Class; null is the highest.")
    mask: MaskBody
    fill_ins: list[Literal["impute", "blur", "mean"]] = Field(["impute", "blur"], min_length=1, max_length=3)
    places: int = Field(20, ge=0, le=100, description="How many patches of the same shape elsewhere.")
    seed: Seed = 0


class CaseBody(BaseModel):
    """Ask for the picture of a case."""

    model_config = ConfigDict(extra="forbid", strict=True)
    case: int = Field(ge=0, le=10**9, description="Number of the case, from GET /api/study/cases.")


class ReviewBody(CaseBody):
    """Write the review of one reader; it replaces an earlier one of this reader."""

    label: str = Field(max_length=300)
    reader: Reader
    rating: Literal["", "yes", "partly", "no", "unclear"] = ""
    flag: bool = False
    comment: str = Field("", max_length=4000)
    blinded: bool = False


class Selection(BaseModel):
    """Filters of a study's cases, as in the report."""

    model_config = ConfigDict(extra="forbid")
    label: str | None = Field(None, max_length=300)
    group: str | None = Field(None, max_length=300)
    outcome: Literal["TP", "FP", "FN", "TN"] | None = None
    status: Literal["ok", "not asked", "failed"] | None = None
    text: str = Field("", max_length=300, description="Part of the name of a patient or image.")
    low: float | None = Field(None, description="Least probability.")
    high: float | None = Field(None, description="Largest probability.")
    sort: str = Field("case", max_length=300, description="case, surprise, probability, or mass:REGION.")
    down: bool = Field(True, description="Largest first.")
    page: int = Field(0, ge=0, le=10**6)
    blinded: bool = Field(False, description="Leave out the truth and what the model answers.")
