import csv

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from camscope.cli.main import app
from camscope.models.loading import load


@pytest.fixture
def cohort(tmp_path):
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "there", "token"])
        for n in range(32):
            pixels = np.random.default_rng(n).integers(0, 200, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{n}.png")
            writer.writerow([f"{n}.png", n, n % 2, n // 2 % 2])
    return tmp_path


def called(folder, *options):
    fixed = ["--model", "timm:resnet10t", "--weights", "none", "--input-size", "32", "--epochs", "1", "--device", "cpu"]
    arguments = ["train", str(folder / "table.csv"), "--out", str(folder / "run"), *fixed, *options]
    return CliRunner().invoke(app, arguments)


def test_exchange_and_balance_reach_the_training(cohort):
    result = called(cohort, "--exchange", "border:0.1", "--exchange", "contrast", "--balance", "token")
    assert result.exit_code == 0, result.output
    facts = load(cohort / "run").facts["training"]
    assert facts["settings"]["exchange"] == ["border:0.1", "contrast"]
    assert facts["settings"]["balance"] == "token"
    assert facts["labels"] == ["there"]
    assert len(facts["groups"]) == 4
