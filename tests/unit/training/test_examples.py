"""The examples of training are run, as a user would."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_the_notebook_walks_the_whole_way(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "chest_xray.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    assert "false positives" in printed
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {}) or "image/jpeg" in output.get("data", {})
    ]
    assert len(images) == 4
    accuracy = re.search(r"^accuracy (\S+)", printed, re.MULTILINE)
    assert float(accuracy[1]) > 0.6  # chance is a third
    assert (tmp_path / "run/report.html").is_file()


def test_the_notebook_is_shipped_with_its_outputs():
    notebook = nbformat.read(EXAMPLES / "chest_xray.ipynb", as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 4
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in shown)


@pytest.mark.slow
def test_a_map_in_a_loss_moves_the_map():
    spec = importlib.util.spec_from_file_location("train_map_in_loss", EXAMPLES / "train_map_in_loss.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    plain, guided = (example.train(weight)[1] for weight in (0.0, 2.0))
    assert guided < plain - 0.05
