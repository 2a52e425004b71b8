"""The installed command, as a user types it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from running import inside

COMMAND = Path(sys.executable).with_name("camscope")


def camscope(*arguments, cwd=None):
    return inside(*arguments, cwd=cwd)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    made = camscope(
        "bundle", "timm:resnet10t", "--weights", "none", "--labels", "cat,dog", "--input-size", 64, "--out", folder
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def pictures(tmp_path):
    draw = np.random.default_rng(0)
    for place in ("a/x.png", "b/x.png", "b/x.jpg"):
        path = tmp_path / "in" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    return tmp_path / "in"


def test_a_folder_with_equal_names_and_a_bad_file(bundle, pictures, tmp_path):
    whole = (pictures / "a/x.png").read_bytes()
    (pictures / "b/cut.png").write_bytes(whole[: len(whole) // 2])
    done = camscope("explain", pictures, "--model", bundle, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cut.png" in done.stderr
    assert "Traceback" not in done.stderr
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("explanation.json"))
    assert [Path(p).parts[-4] for p in written] == ["a", "b", "b"]
    assert len({Path(p).parts[-3] for p in written if Path(p).parts[-4] == "b"}) == 2
    assert len(list((tmp_path / "out").rglob("overlay.jpg"))) == 3


def test_several_targets_and_methods_get_a_folder_each(bundle, pictures, tmp_path):
    done = camscope(
        "explain", pictures / "a/x.png", "--model", bundle, "--target", "top2", "--method", "layercam", "--method",
        "scorecam", "--set", "chunk=8", "--write", "json", "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(s["method"], s["label"]) for s in said][::2] == [(m, said[0]["label"]) for m in ("layercam", "scorecam")]
    assert {s["method"]: s["settings"] for s in said} == {"layercam": {}, "scorecam": {"chunk": 8}}
    assert all((Path(s["folder"]) / "explanation.json").is_file() for s in said)
    assert len({s["folder"] for s in said}) == 4


def test_the_same_command_twice_gives_the_same_map(bundle, pictures, tmp_path):
    for name in ("one", "two"):
        camscope("explain", pictures / "a/x.png", "--model", bundle, "--write", "npy", "--out", tmp_path / name)
    one, two = (np.load(next((tmp_path / name).rglob("map.npy"))) for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    assert one.std() > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layer", "layer5"], "no layer called 'layer5'; nearest: 'layer4'"),
        (["--target", "dgo"], "no class called 'dgo'; nearest: 'dog'"),
        (["--method", "gradcan"], "no method called 'gradcan'; nearest: 'gradcam'"),
        (["--scale", "log"], "no scale called 'log'"),
        (["--write", "overlaj"], "no kind of file called 'overlaj'"),
        (["--set", "chunk"], "--set takes name=value"),
        (["--opacity", "2"], "--opacity"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(bundle, pictures, tmp_path, more, said):
    done = camscope("explain", pictures / "a/x.png", "--model", bundle, "--out", tmp_path / "out", *more)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_changed_bundle_is_refused(bundle, pictures, tmp_path):
    changed = shutil.copytree(bundle, tmp_path / "changed")
    weights = bytearray((changed / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "weights.safetensors").write_bytes(weights)
    done = camscope("explain", pictures / "a/x.png", "--model", changed, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "sha256" in done.stderr


def test_lists_and_helps():
    assert "timm:convnext_base" in camscope("models", "convnext_b").stdout.split()
    assert camscope("models", "no such model").returncode == 2
    assert "arXiv:1610.02391" in camscope("methods", "gradcam").stdout
    assert camscope("--version").stdout.startswith("camscope ")
    for command in ("explain", "bundle", "models", "methods", "demo"):
        assert f"Example: camscope {command}" in " ".join(camscope(command, "--help").stdout.split())


def test_the_installed_command_in_a_process_of_its_own(tmp_path):
    said = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, timeout=300)
    assert (said.returncode, said.stdout.split()[0]) == (0, "camscope")
    wrong = subprocess.run([COMMAND, "explain", tmp_path, "--out", "x"], capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["--help", "--version", "methods", "methods Grad-CAM++", "methods augmented(gradcam)", "study --help"]
)
def test_commands_without_a_model_do_not_import_torch(command):
    program = (
        "import sys; from camscope.cli import main; sys.argv = ['camscope', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'polars', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
