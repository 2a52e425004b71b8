"""The command `camscope app`: its address, its errors, its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from camscope.phantoms.cohort import BUNDLES
from running import inside

pytest.importorskip("uvicorn", reason="needs the extra app")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--token SECRET"),
        (["--token", "short"], "12 or more letters and digits"),
        (["--host", "no.such.host.invalid", "--token", "abcdefghij123"], "cannot listen on no.such.host.invalid"),
        (["--host", "300.1.1.1", "--token", "abcdefghij123"], "cannot listen on 300.1.1.1"),
        ([str(BUNDLES / "effusion")], "two models are called 'effusion'"),
        (["no_such_model"], "there is no model 'no_such_model'"),
    ],
)
def test_wrong_options_end_in_one_sentence(arguments, words):
    done = inside("app", BUNDLES / "effusion", *arguments, "--port", "0")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_options_of_a_model_need_a_model():
    done = inside("app", "--classes", "3")
    assert (done.returncode, "name the model too" in done.stderr) == (2, True)


def test_a_used_port_says_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = inside("app", BUNDLES / "effusion", "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "give another --port" in done.stderr


def test_without_its_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    done = inside("app")
    assert done.returncode == 2
    assert "pip install 'camscope[app]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_offers_the_demo_answers_and_ends(number, tmp_path):
    command = [sys.executable, "-m", "camscope", "app", "--port", "0", "--device", "cpu"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first, second = running.stdout.readline(), running.stdout.readline()
    assert "the demo's five small models" in first
    address = second.split()[1]
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"{address}api/info") as answer:
                info = json.load(answer)
            break
        except OSError:
            time.sleep(0.1)
    assert [one["name"] for one in info["models"]] == sorted(path.name for path in BUNDLES.iterdir())
    os.kill(running.pid, number)
    assert running.wait(timeout=60) == 0
    assert running.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []
