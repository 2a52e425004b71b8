"""Requests that no page of the app sends: none is answered with 500, a traceback or content of a file; none writes."""

from __future__ import annotations

import io
import itertools
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from camscope.errors import SettingError

SECRET = "root:x:0:0"
PATHS = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\windows\\win.ini",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x.png",
    "s3://bucket/a.png",
    "memory://a.png",
    "/proc/self/environ",
    "CON",
    "a\x00b",
    "a" * 5000,
    "\u202egnp.exe",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "'; DROP TABLE reviews; --",
    "$(touch pwned)",
    "%s%n%x",
    "__class__",
    "🙈" * 40,
    "-1",
    "NaN",
]
WRONG = [None, True, -1, 1.5, 10**30, "", [], {}, [[]], {"a": 1}, *PATHS]
BODY = {"model": "effusion", "targets": [0], "methods": ["gradcam"], "layer": None}
REGION = {"model": "effusion", "target": 0, "mask": {"height": 4, "width": 4, "runs": [5, 2]}, "places": 0}
FILES = {"model": "effusion", "target": 0, "method": "gradcam", "kind": "json"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """The working folder of each test; nothing may appear in it."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def harmless(answer, *, ok=False):
    assert answer.status_code < 500, answer.text
    assert ok or answer.status_code >= 400, answer.text[:200]
    assert "Traceback" not in answer.text
    assert SECRET not in answer.text
    if answer.status_code >= 400:
        text = answer.json()["error"]
        assert text
        assert len(text) < 1500


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_to_a_file(client, path):
    path = path.replace("\x00", "%00")
    for address in (f"/{path}", f"/files/{path}", f"/api/pictures/{path}", f"/api/pictures/{path}/pixels"):
        try:
            answer = client.get(address)
        except Exception as error:  # an address that the client itself refuses
            assert "URL" in type(error).__name__ or "url" in str(error).lower()  # noqa: PT017
            continue
        harmless(answer, ok=answer.url.path == "/")


@pytest.mark.parametrize("name", PATHS)
def test_the_name_of_an_upload_is_never_a_path(client, content, name):
    for frame in (None, "0", "999999"):
        params = {"name": name} | ({} if frame is None else {"frame": frame})
        answer = client.post("/api/pictures", params=params, content=content)
        harmless(answer, ok=True)
        if answer.status_code == 201:
            assert not {"/", "\\", "\x00"} & set(answer.json()["name"])
            body = FILES | {"picture": answer.json()["id"]}
            record = client.post("/api/files", json=body).json()
            assert record["picture_sha256"] == answer.json().get("sha256", record["picture_sha256"])


def wrong_bodies():
    yield from (("/api/explain", BODY | {field: value}) for field, value in itertools.product(BODY, WRONG))
    yield from (("/api/region", REGION | {field: value}) for field, value in itertools.product(REGION, WRONG))
    yield from (("/api/files", FILES | {field: value}) for field, value in itertools.product(FILES, WRONG))
    yield from (("/api/explain", BODY | {"targets": [value]}) for value in WRONG)
    yield from (("/api/explain", BODY | {"targets": [{"of": value, "against": 0}]}) for value in WRONG)
    yield from (("/api/region", REGION | {"mask": {"height": v, "width": 4, "runs": [0, 1]}}) for v in WRONG)
    yield from (("/api/region", REGION | {"mask": {"height": 4, "width": 4, "runs": v}}) for v in WRONG)
    yield from (("/api/predict", {"model": value}) for value in WRONG)
    yield from (("/api/steps", {"model": "effusion", "method": value}) for value in WRONG)
    yield from (("/api/layers", {"model": "effusion", "method": value}) for value in WRONG)


def test_hundreds_of_wrong_bodies_end_in_a_sentence(client, key):
    count = 0
    for address, body in wrong_bodies():
        for picture in (key, "0" * 24):
            answer = client.post(address, json=body | {"picture": picture})
            harmless(answer, ok=picture == key)
            count += 1
    assert count > 800


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "\\ud800"}',
        b'{"model": "a", "model": "b"}',
        b"1e999",
        b"--boundary\r\nContent-Disposition: form-data; name=x\r\n\r\n",
    ],
)
def test_bodies_that_are_no_json(client, raw):
    for address in ("/api/predict", "/api/explain", "/api/region", "/api/files", "/api/steps", "/api/layers"):
        harmless(client.post(address, content=raw))
        harmless(client.post(address, content=raw, headers={"content-type": "multipart/form-data; boundary=x"}))


def bomb(width, height):
    """A PNG file of a few bytes whose header tells of many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_uploads_that_are_no_pictures(client, content):
    rng = np.random.default_rng(0)
    files = [
        b"",
        b"GIF89a",
        b"%PDF-1.4",
        b"PK\x03\x04" + b"\0" * 50,
        b"<svg/>",
        b"\x7fELF",
        content[:40],
        content[:-30],
    ]
    files += [bomb(5000, 5000), bomb(60_000, 60_000), bomb(2**31 - 1, 2**31 - 1), b"\0" * 128 + b"DICM" + b"\xff" * 200]
    files += [rng.bytes(int(n)) for n in rng.integers(1, 3000, 40)]
    names = ["a.png", "a.dcm", "a.tif", "a.nii.gz", "a", "a.jpg"]
    for number, file in enumerate(files):
        for name in names[number % 3 :: 3]:
            harmless(client.post("/api/pictures", params={"name": name}, content=file))
    for place in rng.integers(0, len(content), 60):  # a damaged picture may still be one
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        harmless(client.post("/api/pictures?name=a.png", content=bytes(damaged)), ok=True)


def test_large_bodies_are_refused_before_they_are_read(client, monkeypatch):
    from camscope.app import api

    monkeypatch.setattr(api, "MOST_UPLOAD", 10_000)
    harmless(client.post("/api/pictures", content=b"\0" * 10_001))
    answer = client.post("/api/pictures", content=(b"\0" * 1000 for _ in range(20)))  # without a length
    assert answer.status_code == 413
    for length in ("99999999999999999999999", "-1", "abc", "²"):
        harmless(client.post("/api/pictures", content=b"x", headers={"content-length": length.encode()}))
    assert client.post("/api/predict", content=b" " * 2_000_000).status_code == 413


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:8765", "", "[::1", "10.0.0.1", "\xff", "a:b:c"]
)
def test_other_hosts_are_refused(client, host):
    for verb, address in (("GET", "/"), ("GET", "/api/info"), ("POST", "/api/examples/0")):
        answer = client.request(verb, address, headers={"host": host.encode("latin-1")})
        assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8765", "[::1]:9"])
def test_names_of_this_machine_are_allowed(client, host):
    assert client.get("/api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://[", "", "file://"])
def test_pages_of_other_sites_are_refused(client, origin, content):
    assert client.post("/api/pictures", content=content, headers={"origin": origin}).status_code == 403
    assert client.get("/api/info", headers={"origin": origin}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_a_browser_marks_as_foreign_are_refused(client, site):
    assert client.get("/api/info", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": site}).status_code == 200  # a link to the page
    own = {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
    assert client.get("/api/info", headers=own).status_code == 200


def test_another_address_needs_a_token(models):
    from starlette.testclient import TestClient

    from camscope.app.server import create_app

    with pytest.raises(SettingError, match="--token"):
        create_app(models, host="0.0.0.0")
    for token in ("short", "twelve letters with spaces", "ünïcödeünïcödé"):
        with pytest.raises(SettingError, match="letters and digits"):
            create_app(models, host="0.0.0.0", token=token)
    token = "abcdefghij123"
    made = create_app(models, host="0.0.0.0", token=token)
    with TestClient(made, base_url="http://radiology.example:80", follow_redirects=False) as client:
        wrong = [{}, {"authorization": "Bearer x"}, {"authorization": f"Basic {token}"}, {"cookie": "camscope_token=é"}]
        wrong += [{"cookie": 'camscope_token="'}, {"cookie": "\x01;;=;"}]
        for headers in wrong:
            coded = {name: value.encode("latin-1") for name, value in headers.items()}
            assert client.get("/api/info", headers=coded).status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/api/info", headers={"authorization": f"Bearer {token}"}).status_code == 200
        opened = client.get(f"/?token={token}")
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        assert "HttpOnly; SameSite=Strict" in opened.headers["set-cookie"]
        assert client.get("/api/info").status_code == 200  # with the cookie


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
def test_other_verbs_are_refused(client, verb):
    for address in ("/api/explain", "/api/files", "/api/examples/1"):
        answer = client.request(verb, address)
        assert answer.status_code == 405


def test_websockets_are_closed(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/info"):
        pass


def test_memory_is_bounded_under_parallel_uploads(models):
    from camscope.app.uploads import Uploads

    def picture(seed):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    uploads = Uploads(kept=5 * (64 * 64 * 5))
    with ThreadPoolExecutor(32) as pool:
        added = list(pool.map(lambda n: uploads.add(picture(n), f"{n}.png"), range(64)))
    kept = [one for one in added if one.key in uploads._uploads]
    assert 1 <= len(kept) <= 5
    assert sum(one.bytes for one in kept) <= 5 * (64 * 64 * 5)


def test_parallel_requests_all_get_their_own_answer(client, key):
    def ask(target):
        body = {"model": "animals", "picture": key, "targets": [target]}
        return client.post("/api/explain", content=json.dumps(body)).json()["maps"][0]["index"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, [0, 1, 2, 3] * 4)) == [0, 1, 2, 3] * 4


def test_an_unexpected_fault_is_one_sentence_without_its_details(client, key, monkeypatch, caplog):
    from camscope.app import ask

    def broken(*_):
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ask, "classes", broken)
    answer = client.post("/api/predict", json={"model": "effusion", "picture": key})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the app failed at this request; its terminal says where"}
    assert "RuntimeError" in caplog.text


def test_an_unknown_picture_is_not_found(client):
    assert client.get("/api/pictures/" + "0" * 24).status_code == 404
    answer = client.post("/api/predict", json={"model": "effusion", "picture": "0" * 24})
    assert (answer.status_code, "open its file again" in answer.text) == (404, True)
