"""Signals that end a command, with an exit status and one line on what to do."""

import signal
import time

import pytest
from PIL import Image

from camscope.cli import methods
from camscope.models.loading import load
from running import inside

pytestmark = pytest.mark.filterwarnings("ignore:.*no patients are known")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def usual_handlers():
    """Set Python's own handlers, which a library may have replaced in this process."""
    before = {number: signal.getsignal(number) for number in STATUS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    for number, handler in before.items():
        signal.signal(number, handler)


def _check(done, number):
    assert done.returncode == STATUS[number], done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert lines == ["camscope: interrupted; re-run the same command to resume"]


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("stage", ["camscope.training.pictures.decode", "camscope.training.evaluate.read"])
def test_a_signal_while_images_are_read_is_no_damaged_image(number, stage, tmp_path, monkeypatch):
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        Image.new("L", (32, 32), len(name)).save(data / name / "0.png")
    model = load("timm:resnet10t", weights="none", labels=["cat", "dog"], input_size=32).save(tmp_path / "model")
    monkeypatch.setattr(stage, lambda *_: signal.raise_signal(number))
    command = ("train", data, "--model") if "pictures" in stage else ("failures",)
    more = () if "pictures" in stage else ("--data", data)
    _check(inside(*command, model, *more, "--out", tmp_path / "out"), number)


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_is_not_lost_where_python_drops_its_exception(number, monkeypatch):
    class Dying:
        def __del__(self):
            signal.raise_signal(number)
            for _ in range(10):  # Python looks for signals between instructions
                pass

    class Listed:
        def read_text(self, *_):
            Dying()
            for _ in range(1000):
                time.sleep(0.01)

    monkeypatch.setattr(methods, "_LISTED", Listed())
    _check(inside("methods"), number)
