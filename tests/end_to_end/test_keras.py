"""Commands on Keras models, in a process of their own: `keras_cases.py`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from running import apart

CASES = Path(__file__).with_name("keras_cases.py")

pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")


@pytest.mark.slow
def test_commands_take_keras_models(tmp_path: Path) -> None:
    apart(CASES, tmp_path, "-m", "not slow")


@pytest.mark.slow
def test_the_example_trains_and_explains(tmp_path: Path) -> None:
    apart(CASES, tmp_path, "-m", "slow")
