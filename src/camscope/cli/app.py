"""camscope app: serve a local web page that answers questions about pictures."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_options_per_model
from camscope.cli.options import MODELS, Device, Seed, prepare
from camscope.errors import SettingError, require


@with_options_per_model
def app(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=f"{MODELS}.", metavar="MODEL", show_default="five small models of the demo"),
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="Output folder of `camscope study`: look through its cases and review them.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than this machine's own, it needs --token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(help="Secret that a browser must know: 12 or more letters and digits.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    *,
    loading: list[dict[str, Any]],
) -> None:
    """Ask models about pictures on a local web page.

    Open a PNG, JPEG or DICOM file: the page shows the classes, and for each a heat map that you can threshold, zoom and
    compare. Paint a region to fill it in, and see whether the model's answer depends on it. Nothing leaves this
    machine. --study opens the cases of a study, and keeps the reviews of its readers in its folder; nothing else is
    written. Needs the extra app.

    Example: camscope app timm:resnet50 my_model/
    """
    require("starlette", "the app", "app")
    require("uvicorn", "the app", "app")
    from camscope.app.server import bound, create_app, serve
    from camscope.app.study_cases import StudyCases
    from camscope.phantoms.cohort import BUNDLES

    cases = None if study is None else StudyCases(study)
    demo = not models and cases is None
    specs = models or [] if not demo else sorted(str(path) for path in BUNDLES.iterdir() if path.is_dir())
    if demo:
        loading = [{} for _ in specs]
    loaded = {}
    for model in cases.models.values() if cases else ():
        prepare(model, device, seed)
    for spec, options in zip(specs, loading, strict=True):
        model = load_noted(spec, seed=seed, **options)
        if model.name in loaded or (cases and model.name in cases.models):
            raise SettingError(f"two models are called {model.name!r}: name them, --name A --name B")
        prepare(model, device, seed)
        loaded[model.name] = model
    application = create_app(loaded, demo=demo, study=cases, host=host, token=token)
    listening = bound(host, port)
    shown = f"[{host}]" if ":" in host else host
    if demo:
        print("no model given: offering the demo's five small models of computer-generated chest radiographs")
    address = f"http://{shown}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"
    print(f"open {address} in a browser; press Ctrl+C to stop", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        serve(application, listening)
