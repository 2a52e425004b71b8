"""The examples of training are run, as a user would."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


def executed(name, folder):
    """Run a notebook in a folder; return it, and what it printed."""
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return notebook, "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_the_notebook_walks_the_whole_way(tmp_path):
    notebook, printed = executed("chest_xray.ipynb", tmp_path)
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


@pytest.mark.slow
def test_grad_cam_by_hand_is_grad_cam(tmp_path):
    _, printed = executed("gradcam_step_by_step.ipynb", tmp_path)
    assert float(re.search(r"new pictures: (\S+)", printed)[1]) > 0.9
    differences = [float(text) for text in re.findall(r"by hand: (\S+)", printed)]
    assert len(differences) == 2
    assert max(differences) < 1e-5
    row, column, true_row, true_column = map(
        int, re.search(r"row (\d), column (\d)\n.*row (\d), column (\d)", printed).groups()
    )
    assert max(abs(row - true_row), abs(column - true_column)) <= 1


@pytest.mark.parametrize(("name", "images"), [("chest_xray.ipynb", 4), ("gradcam_step_by_step.ipynb", 5)])
def test_a_notebook_is_shipped_with_its_outputs(name, images):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == images
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in shown)


@pytest.mark.slow
def test_a_map_in_a_loss_moves_the_map():
    spec = importlib.util.spec_from_file_location("train_map_in_loss", EXAMPLES / "train_map_in_loss.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    plain, guided = (example.train(weight)[1] for weight in (0.0, 2.0))
    assert guided < plain - 0.05
