"""The routes of the app for the cases of a study and the reviews of its readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from camscope.app.api import MOST_JSON, Api, read_body
from camscope.app.bodies import CaseBody, ReviewBody, Selection
from camscope.app.reviews import RATINGS
from camscope.app.study_cases import StudyCases


class StudyApi:
    """The routes of a study.

    Args:
        cases: the study.
        api: keeps the pictures, and has the threads.
    """

    def __init__(self, cases: StudyCases, api: Api) -> None:
        self._cases, self._api = cases, api

    async def facts(self, request: Request) -> Response:
        """Return what the study has."""
        return JSONResponse(self._cases.facts() | {"ratings": RATINGS})

    async def cases(self, request: Request) -> Response:
        """Return one page of the chosen cases."""
        return await self._answer(self._cases.page, _selection(request))

    async def open(self, request: Request) -> Response:
        """Read the picture of a case."""
        body = CaseBody.model_validate_json(await read_body(request, MOST_JSON))
        return await self._answer(lambda: self._cases.open(body.case, self._api.uploads).facts())

    async def write(self, request: Request) -> Response:
        """Write a review."""
        body = ReviewBody.model_validate_json(await read_body(request, MOST_JSON))

        def put() -> dict[str, Any]:
            image = self._cases.image(body.case)
            more = body.model_dump(exclude={"case", "label", "reader"})
            self._cases.reviews.put(image, self._cases.known_label(body.label), body.reader, **more)
            return {"written": True}

        return await self._answer(put)

    async def reviews(self, request: Request) -> Response:
        """Return the reviews of one reader: readers do not see each other's."""
        reader = request.query_params.get("reader", "")
        return await self._answer(lambda: [one for one in self._cases.reviews.all() if one["reader"] == reader])

    async def agreement(self, request: Request) -> Response:
        """Return the agreement of the readers."""
        return await self._answer(self._cases.reviews.agreement)

    async def csv(self, request: Request) -> Response:
        """Return the chosen cases with all reviews as a CSV file."""
        chosen = _selection(request)
        content = await self._api.in_thread(lambda: self._cases.csv(chosen))
        disposition = 'attachment; filename="selection.csv"'
        return Response(content, media_type="text/csv", headers={"content-disposition": disposition})

    async def _answer(self, work: Callable[..., Any], *arguments: Any) -> Response:
        return JSONResponse(await self._api.in_thread(lambda: work(*arguments)))


def _selection(request: Request) -> Selection:
    return Selection.model_validate(dict(request.query_params))
