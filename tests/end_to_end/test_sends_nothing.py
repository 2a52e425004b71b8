"""Nothing is sent, not even by packages that report their use to their makers: SECURITY.md promises it."""

import importlib.util
import os
import subprocess
import sys

import pytest

SPY = """
import socket

def refuse(function):
    def spy(*arguments, **options):
        address = arguments[1] if function.__name__ == "connect" else arguments[:1]
        if not isinstance(address, tuple) or str(address[0]).startswith(("localhost", "127.")):
            return function(*arguments, **options)
        with open({file!r}, "a") as log:  # processes that are forked write it too
            print(address, file=log)
        raise OSError("no network")
    return spy

socket.getaddrinfo = refuse(socket.getaddrinfo)
socket.socket.connect = refuse(socket.socket.connect)
"""

OPENVINO = """
import time, torch, camscope as cs
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                          torch.nn.Linear(8, 2))
print(cs.cam(net, torch.randn(2, 3, 32, 32), engine="openvino").shape)
time.sleep(2)  # reports are sent by a thread
"""

YOLO = """
from camscope.errors import require
require("ultralytics", "a test", "yolo")
"""

ASK = "import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass"


def sent(tmp_path, script):
    """Run a script as outside continuous integration, where packages report nothing; return what it asked for."""
    file = tmp_path / "asked.txt"
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "YOLO_OFFLINE")}
    kept |= {"HOME": str(tmp_path), "CAMSCOPE_CACHE": str(tmp_path / "cache")}
    program = SPY.replace("{file!r}", repr(str(file))) + script
    done = subprocess.run([sys.executable, "-c", program], env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()  # where the number of this machine would be kept
    return file.read_text() if file.exists() else ""


def test_the_spy_sees_what_is_sent(tmp_path):
    assert "example.org" in sent(tmp_path, ASK)


@pytest.mark.parametrize(
    ("package", "script"), [("openvino", OPENVINO), ("ultralytics", YOLO)], ids=("openvino", "yolo")
)
def test_optional_packages_send_nothing(tmp_path, package, script):
    if importlib.util.find_spec(package) is None:  # not imported here: it changes settings of NumPy and Pillow
        pytest.skip(f"{package} is not installed")
    assert sent(tmp_path, script) == ""
