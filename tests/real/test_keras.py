"""Keras' families on real images, in a process of their own: `keras_cases.py`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from running import apart

CASES = Path(__file__).with_name("keras_cases.py")

pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")


@pytest.mark.slow
def test_keras_on_real_pictures(tmp_path: Path) -> None:
    apart(CASES, tmp_path)
