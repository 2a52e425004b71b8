"""The API answers as the library does."""

from __future__ import annotations

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import camscope as cs
from camscope.images import decode


@pytest.fixture(scope="module")
def picture(content):
    return decode(content, "a.png")


def values(found):
    grid = found["grid"]
    return np.frombuffer(base64.b64decode(grid["values"]), "<f4").reshape(grid["height"], grid["width"])


def test_info_names_the_models_and_methods(client, models):
    info = client.get("/api/info").json()
    assert [one["name"] for one in info["models"]] == list(models)
    assert {one["name"] for one in info["methods"]} == set(cs.METHODS)
    assert len(base64.b64decode(info["colours"]["tables"]["byr"])) == 768


def test_a_picture_is_shown_with_the_pixels_of_its_file(client, key, picture):
    facts = client.get(f"/api/pictures/{key}").json()
    assert (facts["name"], facts["height"], facts["width"]) == ("a.png", 60, 80)
    raw = client.get(f"/api/pictures/{key}/pixels").content
    np.testing.assert_array_equal(np.frombuffer(raw, np.uint8).reshape(60, 80), picture.bytes[..., 0])


def test_sixteen_bits_are_shown_with_sixteen_bits(client):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    facts = client.post("/api/pictures?name=deep.png", content=buffer.getvalue()).json()
    assert facts["shown"]["bits"] == 16
    raw = client.get(f"/api/pictures/{facts['id']}/pixels").content
    np.testing.assert_array_equal(np.frombuffer(raw, "<u2").reshape(8, 8), pixels)


def test_classes_have_the_probabilities_of_the_library(client, key, models, picture):
    found = client.post("/api/predict", json={"model": "animals", "picture": key, "count": 4}).json()["classes"]
    top = cs.explain(models["animals"], picture).top
    assert [(one["label"], pytest.approx(one["probability"], abs=1e-6)) for one in found] == list(top)
    assert found[0]["log_odds"] == pytest.approx(np.log(top[0][1] / (1 - top[0][1])), abs=1e-4)


def test_maps_are_those_of_explain(client, key, models, picture):
    body = {"model": "animals", "picture": key, "targets": ["dog", 2, None], "methods": ["gradcam", "layercam"]}
    found = client.post("/api/explain", json=body).json()["maps"]
    assert [(one["method"], one["label"]) for one in found[:2]] == [("gradcam", "dog"), ("gradcam", "ox")]
    for one, (method, target) in zip(
        found, [(m, t) for m in ("gradcam", "layercam") for t in ("dog", 2, None)], strict=True
    ):
        e = cs.explain(models["animals"], picture, method=method, target=target)
        np.testing.assert_allclose(values(one), e.grid, atol=1e-6)
        assert one["window"] == json.loads(json.dumps(e.window.to_dict()))


def test_a_contrast_is_the_difference_of_two_classes(client, key, models, picture):
    body = {"model": "animals", "picture": key, "targets": [{"of": "dog", "against": 3}]}
    (found,) = client.post("/api/explain", json=body).json()["maps"]
    e = cs.explain(models["animals"], picture, target=cs.targets.contrast(1, 3))
    np.testing.assert_allclose(values(found), e.grid, atol=1e-6)
    assert found["label"] == "dog, not hen"
    assert found["score"] == pytest.approx(e.score, abs=1e-5)


def test_layers_go_through_the_stages_of_the_network(client, key):
    body = {"model": "animals", "picture": key}
    names = client.post("/api/layer-names", json=body).json()["layers"]
    maps = client.post("/api/layers", json=body | {"target": 1}).json()["maps"]
    assert [one["layer"] for one in maps] == names
    sizes = [one["grid"]["height"] for one in maps]
    assert sizes == sorted(sizes, reverse=True)
    chosen = client.post("/api/explain", json=body | {"targets": [1], "layer": names[0]}).json()["maps"][0]
    np.testing.assert_array_equal(values(chosen), values(maps[0]))


def test_steps_are_a_picture(client, key):
    answer = client.post("/api/steps", json={"model": "effusion", "picture": key, "target": 0})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).width > 500


@pytest.mark.slow
def test_files_are_those_that_explain_writes(client, key, models, picture, tmp_path):
    body = {"model": "animals", "picture": key, "target": "dog", "method": "gradcam"}
    answer = client.post("/api/files", json=body | {"kind": "zip"})
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    cs.explain(models["animals"], picture, target="dog").save(tmp_path, write="all")
    written = {path.name for path in tmp_path.iterdir()}
    assert set(archive.namelist()) == written | {"figure.svg", "figure.pdf"}
    for name in written - {"explanation.json"}:
        assert archive.read(name) == (tmp_path / name).read_bytes()
    record = json.loads(archive.read("explanation.json"))
    assert record["label"] == "dog"
    assert len(record["picture_sha256"]) == 64
    for kind, beginning in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("npy", b"\x93NUMPY")):
        assert client.post("/api/files", json=body | {"kind": kind}).content.startswith(beginning)


def test_the_document_describes_every_address(client):
    document = client.get("/api/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for address, operations in document["paths"].items():
        filled = address.replace("{key}", "0" * 24).replace("{number}", "99")
        for verb in operations:
            answer = client.request(verb, filled)
            assert answer.status_code != 405
            assert answer.json() != {"error": "Not Found"}, address
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])
    assert {"ExplainBody", "RegionBody", "Contrast", "MaskBody"} <= references


def test_examples_are_pictures(client):
    assert client.post("/api/examples/0").json()["height"] == 256
    assert client.post("/api/examples/99").status_code == 404


def test_the_page_and_its_parts_have_no_inline_code(client):
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "style=" not in page.text
    assert "<script>" not in page.text
    for part in page.text.split('src="')[1:] + page.text.split('href="/')[1:]:
        address = part.split('"')[0]
        assert client.get(address if address.startswith("/") else f"/{address}").status_code == 200
    assert "import" not in client.get("/viewer.js").text
