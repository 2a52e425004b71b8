"""The JSON API: each route reads a checked body, answers in a thread, and turns every error into one sentence."""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from camscope import __version__
from camscope.app import ask
from camscope.app.bodies import (
    ExplainBody,
    FilesBody,
    LayersBody,
    PredictBody,
    RegionBody,
    StepsBody,
)
from camscope.app.region_effect import FILLS, region_effect
from camscope.app.uploads import MOST_UPLOAD, Upload, Uploads
from camscope.errors import CamscopeError, PictureError, first_line
from camscope.explanation.method_lookup import default_method
from camscope.methods import METHODS, facts_of
from camscope.models.model import Model
from camscope.phantoms.cohort import plan_cohort
from camscope.viewer import COLOURS, colour_tables

MOST_JSON = 1 << 20
"""Bytes of the largest JSON body."""

_UPLOADS_AT_ONCE, _ANSWERS_AT_ONCE = 4, 2
_PATIENCE = 60
"""Seconds in which a body must arrive."""
_EXAMPLES = (17, 7, 58, 25, 59, 13)
"""Pictures of the demo's cohort: with and without a finding, with and without the letters AP."""
_SHOWN = 200
_LOG = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
AnyBody = TypeVar("AnyBody", bound=BaseModel)


class Api:
    """The routes of the API.

    Args:
        models: name -> model.
        demo: whether the models are those of the demo, so that example pictures are offered.
        study: whether the cases of a study are offered too.
    """

    def __init__(self, models: Mapping[str, Model], *, demo: bool, study: bool = False) -> None:
        self._models, self._demo, self._study = dict(models), demo, study
        self.uploads = Uploads()
        self._answering = anyio.CapacityLimiter(_ANSWERS_AT_ONCE)
        self._uploading = anyio.Semaphore(_UPLOADS_AT_ONCE)

    async def info(self, request: Request) -> Response:
        """Return the models, methods, colours and fill-ins."""
        models = [
            {
                "name": name,
                "title": model.title,
                "outcome": model.outcome,
                "method": default_method(model.net),
                "labels": list(model.labels),
                "input": list(model.preprocess.input_size),
                "notes": list(model.notes),
            }
            for name, model in self._models.items()
        ]
        return JSONResponse(
            {
                "version": __version__,
                "models": models,
                "methods": method_list(),
                "colours": {"tables": colour_tables(), "names": COLOURS},
                "fill_ins": FILLS,
                "study": self._study,
                "examples": len(_EXAMPLES) if self._demo else 0,
                "limits": {"upload_bytes": MOST_UPLOAD},
            }
        )

    async def upload(self, request: Request) -> Response:
        """Take the content of a picture's file as the body."""
        name, frame = request.query_params.get("name", ""), request.query_params.get("frame")
        if frame is not None and not (frame.isascii() and frame.isdigit() and len(frame) < 7):
            return _error("frame must be a whole number from 0", 422)
        async with self._uploading:
            content = await read_body(request, MOST_UPLOAD)
            number = None if frame is None else int(frame)
            upload = await self.in_thread(lambda: self.uploads.add(content, name, frame=number))
        return JSONResponse(upload.facts(), 201)

    async def example(self, request: Request) -> Response:
        """Add an example picture of the demo."""
        number = request.path_params["number"]
        if not self._demo or not 0 <= number < len(_EXAMPLES):
            return _error("there is no such example", 404)

        def draw() -> dict[str, Any]:
            spec = plan_cohort(7)[_EXAMPLES[number]]
            buffer = io.BytesIO()
            Image.fromarray(spec.phantom().picture.bytes[..., 0]).save(buffer, "PNG")
            findings = " and ".join(finding.lower() for finding in spec.findings) or "no finding"
            name = f"example {number + 1}, {findings}{', letters AP' if spec.token else ''}.png"
            return self.uploads.add(buffer.getvalue(), name).facts()

        return JSONResponse(await self.in_thread(draw), 201)

    async def picture(self, request: Request) -> Response:
        """Return the facts of a picture."""
        return JSONResponse(self._upload(request.path_params["key"]).facts())

    async def pixels(self, request: Request) -> Response:
        """Return the shown pixels, row by row, in little-endian bytes."""
        shown = self._upload(request.path_params["key"]).shown
        return Response(shown.astype(shown.dtype.newbyteorder("<")).tobytes(), media_type="application/octet-stream")

    async def predict(self, request: Request) -> Response:
        """Return the highest classes."""
        return await self._answer(request, PredictBody, ask.classes)

    async def explain(self, request: Request) -> Response:
        """Return maps."""
        return await self._answer(request, ExplainBody, ask.maps)

    async def layers(self, request: Request) -> Response:
        """Return the map of one class at each stage."""
        return await self._answer(request, LayersBody, ask.at_layers)

    async def layer_names(self, request: Request) -> Response:
        """Return the names of the layers that can be explained."""
        return await self._answer(
            request, PredictBody, lambda model, upload, _: {"layers": ask.layer_list(model, upload)}
        )

    async def region(self, request: Request) -> Response:
        """Fill in a region."""
        return await self._answer(request, RegionBody, region_effect)

    async def steps(self, request: Request) -> Response:
        """Return a PNG file with the steps of one map."""
        png = await self._computed(request, StepsBody, ask.step_sheet)
        return Response(png, media_type="image/png")

    async def files(self, request: Request) -> Response:
        """Return a file of one map."""
        content, media, name = await self._computed(request, FilesBody, ask.files)
        disposition = f"attachment; filename*=UTF-8''{quote(name)}"
        return Response(content, media_type=media, headers={"content-disposition": disposition})

    async def _answer(self, request: Request, body: type[AnyBody], compute: Callable[..., Any]) -> Response:
        return JSONResponse(await self._computed(request, body, compute))

    async def _computed(self, request: Request, body: type[AnyBody], compute: Callable[..., Any]) -> Any:
        """Read a body and answer it in a thread; at most two answers are computed at once."""
        wanted: Any = body.model_validate_json(await read_body(request, MOST_JSON))
        model, upload = ask.find_model(self._models, wanted.model), self._upload(wanted.picture)
        return await self.in_thread(lambda: compute(model, upload, wanted))

    def _upload(self, key: str) -> Upload:
        try:
            return self.uploads.get(key)
        except PictureError as error:
            raise HTTPException(404, str(error)) from None

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do some work in one of the threads that answer."""
        return await anyio.to_thread.run_sync(work, limiter=self._answering)


def method_list() -> list[dict[str, Any]]:
    """Return the methods: name, first sentence, cost, and whether they differ between classes."""
    return [
        {
            "name": name,
            "about": (function.__doc__ or "").strip().partition("\n")[0],
            "passes": facts_of(function).passes,
            "class_agnostic": facts_of(function).class_agnostic,
        }
        for name, function in METHODS.items()
    ]


def spoken(handler: Handler) -> Handler:
    """Let a route answer errors with a status and one sentence."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except HTTPException as error:
            return _error(error.detail, error.status_code)
        except ValidationError as error:
            return _error(_first(error), 422)
        except CamscopeError as error:
            return _error(str(error), 422)
        except TimeoutError:
            return _error("the request did not arrive in time", 408)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as fault:
            _LOG.error("%s failed: %s: %s", request.url.path, type(fault).__name__, first_line(fault))
            return _error("the app failed at this request; its terminal says where", 500)

    return answer


async def read_body(request: Request, most: int) -> bytes:
    """Read a body of limited size.

    Raises:
        HTTPException: it is larger (413).
        TimeoutError: it does not arrive.
    """
    error = HTTPException(413, f"expected at most {most:,} bytes; reduce the picture or send less")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) > most:
        raise error
    parts, size = [], 0
    with anyio.fail_after(_PATIENCE):
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise error
            parts.append(part)
    return b"".join(parts)


def _first(error: ValidationError) -> str:
    """Return the first problem of a body as one sentence."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}"[:_SHOWN] if place else problem["msg"][:_SHOWN]


def _error(text: str, status: int) -> JSONResponse:
    return JSONResponse({"error": text.encode("utf-8", "replace").decode()}, status)
