"""Build the application, and serve it."""

from __future__ import annotations

import importlib.resources
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from camscope.app import openapi
from camscope.app.api import Api, spoken
from camscope.app.guard import LOOPBACK, Guard
from camscope.app.study_api import StudyApi
from camscope.app.study_cases import StudyCases
from camscope.errors import SettingError, reason
from camscope.models.model import Model
from camscope.viewer import module, style

_SHORTEST_TOKEN = 12
_AT_ONCE = 64
_FILES = importlib.resources.files("camscope.app").joinpath("files")
_PAGE_PARTS = ("app.js", "ask.js", "test.js", "layers.js", "study.js", "server.js")


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def create_app(
    models: Mapping[str, Model],
    *,
    demo: bool = False,
    study: StudyCases | None = None,
    host: str = "127.0.0.1",
    token: str | None = None,
) -> ASGIApp:
    """Return the application.

    Args:
        models: name -> model; each is locked while it answers a request.
        demo: offer example pictures.
        study: a study whose cases are offered too, with its models.
        host: the address that it will be bound to.
        token: what each request must know; needed for an address that other machines can reach.

    Raises:
        SettingError: a token is missing, short, or has characters that a cookie cannot have.
    """
    if token is None and not is_loopback(host):
        raise SettingError(f"other machines can reach the app at {host}: protect it, --token SECRET")
    if token is not None and not (len(token) >= _SHORTEST_TOKEN and token.isascii() and token.isalnum()):
        raise SettingError(f"--token must be {_SHORTEST_TOKEN} or more letters and digits")
    api = Api({**(study.models if study else {}), **models}, demo=demo, study=study is not None)
    texts = _contents() | {
        "/api/openapi.json": (json.dumps(openapi.document(study=study is not None)), "application/json")
    }
    routes = [Route(address, _file(*content), methods=["GET"]) for address, content in texts.items()]
    handlers = {
        "/api/info": ("GET", api.info),
        "/api/pictures": ("POST", api.upload),
        "/api/pictures/{key:str}": ("GET", api.picture),
        "/api/pictures/{key:str}/pixels": ("GET", api.pixels),
        "/api/examples/{number:int}": ("POST", api.example),
        "/api/predict": ("POST", api.predict),
        "/api/explain": ("POST", api.explain),
        "/api/layer-names": ("POST", api.layer_names),
        "/api/layers": ("POST", api.layers),
        "/api/steps": ("POST", api.steps),
        "/api/region": ("POST", api.region),
        "/api/files": ("POST", api.files),
    }
    if study is not None:
        reader = StudyApi(study, api)
        handlers |= {
            "/api/study": ("GET", reader.facts),
            "/api/study/cases": ("GET", reader.cases),
            "/api/study/agreement": ("GET", reader.agreement),
            "/api/study/selection.csv": ("GET", reader.csv),
            "/api/study/open": ("POST", reader.open),
            "/api/study/reviews": ("GET", reader.reviews),
            "/api/study/review": ("POST", reader.write),
        }
    routes += [Route(address, spoken(handler), methods=[verb]) for address, (verb, handler) in handlers.items()]
    application = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    hosts = {*LOOPBACK, host.lower()} if is_loopback(host) else None
    return Guard(application, hosts=hosts, token=token)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingError: the address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as fault:
        raise SettingError(f"cannot listen on {host}, port {port}: {reason(fault)}; give another --port") from None


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until the process is interrupted."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, limit_concurrency=_AT_ONCE, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listening])


def _contents() -> dict[str, tuple[str, str]]:
    """Return the files of the page: address -> text and media type."""
    page_style = importlib.resources.files("camscope.page").joinpath("templates/style.css").read_text("utf-8")
    texts = {
        "/": (_FILES.joinpath("index.html").read_text("utf-8"), "text/html"),
        "/icon.svg": (_FILES.joinpath("icon.svg").read_text("utf-8"), "image/svg+xml"),
        "/viewer.js": (module(), "text/javascript"),
        "/style.css": ("\n".join([page_style, style(), _FILES.joinpath("app.css").read_text("utf-8")]), "text/css"),
    }
    texts |= {f"/{name}": (_FILES.joinpath(name).read_text("utf-8"), "text/javascript") for name in _PAGE_PARTS}
    return texts


def _file(text: str, media: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(text, media_type=media)

    return answer


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
