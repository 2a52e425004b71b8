"""Study files: what is right is read, what is wrong is said with its line."""

import inspect
import re
from pathlib import Path

import pytest

from camscope import load
from camscope.errors import StudyError
from camscope.study.config import PATTERN, ModelSection, line_of, read_study_file

WHOLE = """\
[cohort]
table = "t.csv"
group = "view"
masks = { lung = "lung_mask" }
[labels.A]
column = "a"
model = { spec = "timm:resnet18", weights = "w.pth", labels = ["no", "yes"], input_size = 64 }
class = "yes"
[explain]
methods = ["gradcam"]
"""


def read(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return read_study_file(path)


def test_a_whole_file_with_its_defaults(tmp_path):
    file = read(tmp_path, WHOLE)
    assert file.cohort.group == ("view",)
    assert file.labels["A"].class_ == "yes"
    assert file.labels["A"].model.labels == ("no", "yes")
    assert (file.labels["A"].uncertain, file.labels["A"].threshold) == ("drop", 0.5)
    assert (file.explain.when, file.explain.files, file.explain.cmap) == ("present", PATTERN, "byr")
    assert file.audit is None


def test_a_model_in_one_word_and_several_groups(tmp_path):
    file = read(tmp_path, '[cohort]\ntable="t"\ngroup=["site","view"]\n[labels."A, b"]\ncolumn="a"\nmodel="m"\n')
    assert file.cohort.group == ("site", "view")
    assert file.labels["A, b"].model.spec == "m"


def test_a_byte_order_mark(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert read_study_file(tmp_path / "study.toml").cohort.table.path == "t.csv"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("group", "grupp", 3, "no setting called 'grupp'; nearest: 'group'"),
        ('["gradcam"]', "[]", 10, "explain.methods"),
        ('["gradcam"]', '["gradcam"]\nwhen = "often"', 11, "explain.when = 'often'"),
        ('["gradcam"]', '["gradcam"]\nfiles = "../{image}_{label}.jpg"', 11, "without '..'"),
        ('["gradcam"]', '["gradcam"]\nfiles = "/{image}_{label}.jpg"', 11, "relative"),
        ('["gradcam"]', '["gradcam"]\nfiles = "{image}_{label}.exe"', 11, ".jpg or .png"),
        ('["gradcam"]', '["gradcam"]\nfiles = "{image}_{labl}.jpg"', 11, "nearest: 'label'"),
        ('["gradcam"]', '["gradcam"]\nfiles = "{image.x}_{label}.jpg"', 11, "expected group"),
        ('["gradcam"]', '["gradcam"]\nfiles = "{label}.jpg"', 11, "needs {image} and {label}"),
        ('["gradcam"]', '["gradcam"]\nopacity = 2', 11, "explain.opacity = 2"),
        ("lung =", "label =", 4, "cannot be called 'label'"),
    ],
)
def test_what_is_wrong_has_its_line(tmp_path, old, new, line, said):
    with pytest.raises(StudyError) as caught:
        read(tmp_path, WHOLE.replace(old, new))
    (problem,) = caught.value.problems
    assert said in problem.text
    assert problem.line == line
    assert str(problem).startswith(f"{tmp_path / 'study.toml'}:{line}: ")


def test_everything_is_said_at_once(tmp_path):
    with pytest.raises(StudyError, match="and 1 more") as caught:
        read(tmp_path, WHOLE.replace("group", "grupp").replace("column", "colum"))
    assert sorted(problem.line for problem in caught.value.problems) == [3, 6]


def test_several_methods_need_their_name_in_the_pattern(tmp_path):
    text = WHOLE.replace('["gradcam"]', '["gradcam", "layercam"]\nfiles = "{image}_{label}.jpg"')
    with pytest.raises(StudyError, match=r"needs \{method\}"):
        read(tmp_path, text)


@pytest.mark.parametrize(("content", "said"), [(b"[cohort", "is not TOML"), (b"\xff\xff\xff", "not UTF-8")])
def test_what_is_no_toml(tmp_path, content, said):
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(StudyError, match=said):
        read_study_file(tmp_path / "study.toml")


def test_properties_are_all_by_default_and_known_by_name(tmp_path):
    assert "contrast" in read(tmp_path, WHOLE + "[audit]\n").audit.properties
    assert read(tmp_path, WHOLE + '[audit]\nproperties = ["jpeg", "jpeg"]\n').audit.properties == ("jpeg",)
    with pytest.raises(StudyError, match=r":12: no property called 'contrst'; nearest: 'contrast'"):
        read(tmp_path, WHOLE + '[audit]\nproperties = ["contrst"]\n')


def test_no_file(tmp_path):
    with pytest.raises(StudyError, match="No such file"):
        read_study_file(tmp_path / "study.toml")


def test_lines_of_keys():
    text = '[a]\nb = 1\n["x.y"]\n"c d" = 2\n[[e]]\n'
    assert [line_of(text, keys) for keys in (["a", "b"], ["x.y", "c d"], ["a", "other"], ["none"])] == [2, 4, 1, None]


def test_a_model_takes_the_arguments_of_load_and_the_page_lists_them():
    # A preprocess is a Python object; a study does not explain a classifier that is still to be trained.
    taken = set(inspect.signature(load).parameters) - {"preprocess", "new_classifier"}
    assert set(ModelSection.model_fields) == taken
    page = Path("docs/study.md").read_text(encoding="utf-8")
    table = page.partition("The keys of `model = { ... }`")[2].partition("\n### ")[0]
    keys = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(keys))) == taken


def test_one_number_is_enough_for_all_channels():
    assert ModelSection(spec="x", mean=0.5).mean == 0.5
    assert ModelSection(spec="x", mean=(0.5, 0.4, 0.3)).mean == (0.5, 0.4, 0.3)
