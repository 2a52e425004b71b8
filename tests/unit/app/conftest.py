"""A client of the app, with two small models."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camscope.models.loading import load
from camscope.phantoms.cohort import BUNDLES

pytest.importorskip("starlette", reason="needs the extra app")


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    several = load("timm:test_resnet", weights="none", classes=4, labels=["cat", "dog", "ox", "hen"], name="animals")
    return {"effusion": load(BUNDLES / "effusion"), "animals": several}


@pytest.fixture(scope="session")
def client(models) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from camscope.app.server import create_app

    with TestClient(create_app(models, demo=True), base_url="http://127.0.0.1:8765") as made:
        yield made


def png(size: tuple[int, int] = (60, 80), seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def content() -> bytes:
    return png()


@pytest.fixture(scope="session")
def key(client, content) -> str:
    return client.post("/api/pictures?name=a.png", content=content).json()["id"]
