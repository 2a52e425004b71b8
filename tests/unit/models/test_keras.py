"""Keras takes its backend once per process, so its cases run in processes of their own."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from running import apart

CASES = Path(__file__).with_name("keras_cases.py")
FILE_CASES = Path(__file__).with_name("keras_file_cases.py")

pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")


def test_keras_models(tmp_path: Path) -> None:
    apart(CASES, tmp_path, "-m", "not slow")


@pytest.mark.slow
def test_what_keras_files_say_without_words(tmp_path: Path) -> None:
    apart(FILE_CASES, tmp_path)


@pytest.mark.slow
def test_all_families(tmp_path: Path) -> None:
    apart(CASES, tmp_path, "-m", "slow")
