"""A study read and checked: settings, models, rows and files, all at once."""

import pytest

import camscope as cs
from camscope.errors import StudyError
from camscope.study.study import Study


def changed(path, **replaced):
    text = path.read_text(encoding="utf-8")
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study(make_study):
    study = cs.Study.read(make_study())
    assert len(study.cohort) == 8
    model, index = study.model("Effusion")
    assert (model.name, index) == ("effusion", 0)
    assert len(study.models) == 2
    found, problems = Study.check(study.path)
    assert problems == []
    assert found.plan == study.plan


def test_the_plan_follows_table_and_settings(make_study):
    path = make_study()
    first = Study.read(path).plan
    assert Study.read(path).plan == first
    with (path.parent / "cohort.csv").open("a") as file:
        file.write("new.png,P9,AP,1,0,\n")
    second = Study.read(path).plan
    third = Study.read(changed(path, a=("[explain]", '[explain]\ncmap = "jet"'))).plan
    assert len({first, second, third}) == 3
    assert Study.read(changed(path, a=("[audit]", "[audit]\ndelta = 0.2"))).plan == third
    assert Study.read(changed(path, a=("border:0.10", "border:0.20"))).plan != third


def test_all_problems_at_once_with_their_lines(make_study):
    path = changed(
        make_study(explain='cmap = "bleu"\nmethods = ["gradcan"]'),
        column=('column = "nodule"', 'column = "nodul"\nclass = "Noodle"'),
        region=("border:0.10", "border:9"),
    )
    (path.parent / "images/P000/PA.png").unlink()
    (path.parent / "images/P000/AP.png").write_bytes(b"no image")
    study, problems = Study.check(path)
    assert study is None
    lines = path.read_text().splitlines()
    said = {(problem.line, problem.text.split("; ")[0]) for problem in problems if problem.file == str(path)}
    assert (lines.index('cmap = "bleu"') + 1, "no colour map called 'bleu'") in said
    assert (lines.index('methods = ["gradcan"]') + 1, "no method called 'gradcan'") in said
    assert (lines.index('class = "Noodle"') + 1, "no class called 'Noodle'") in said
    assert any(line == lines.index('shortcuts = ["border:9"]') + 1 for line, _ in said)
    rows = {problem.line: problem.text for problem in problems if problem.file == study_table(path)}
    assert "no column called 'nodul'; nearest: 'nodule'" in rows[1]
    assert "there is no file" in rows[2]
    assert "is not an image" in rows[3]


def test_a_missing_column_is_one_problem_and_not_one_per_row(make_study):
    path = changed(make_study(), column=('column = "nodule"', 'column = "nodul"'))
    _, problems = Study.check(path)
    assert [problem.line for problem in problems if problem.file == study_table(path)] == [1]


def test_a_list_that_is_too_short(make_study):
    path = changed(make_study(), a=("[audit]", '[audit]\nfill_ins = ["impute"]'))
    _, (problem,) = Study.check(path)
    assert problem.text == "audit.fill_ins needs at least 2 entries, but has 1"


def study_table(path):
    return str(path.parent / "cohort.csv")


def test_reading_says_it_too(make_study):
    with pytest.raises(StudyError, match="and 1 more"):
        Study.read(changed(make_study(explain='methods = ["gradcan"]'), a=("border:0.10", "bordr:0.10")))


def test_files_that_do_not_fit(make_study):
    path = make_study()
    table = path.parent / "cohort.csv"
    boxes = ["50,4,60,24", "there.png", '{""counts"": [3], ""size"": [1, 1]}', "1 5"]
    lines = table.read_text().splitlines()
    for row, box in enumerate(boxes, 1):
        lines[row] = lines[row].replace("4,4,20,24", box)
    table.write_text("\n".join(lines))
    _, problems = Study.check(path)
    assert [problem.line for problem in problems] == [2, 3, 4]
    assert "reaches beyond its image" in problems[0].text
    assert "there is no file" in problems[1].text


def test_a_mask_of_another_shape(make_study):
    path = make_study()
    table = path.parent / "cohort.csv"
    (path.parent / "images/wide.png").write_bytes((path.parent / "images/P000/PA.png").read_bytes())
    table.write_text(table.read_text().replace("4,4,20,24", "wide.png", 1))
    assert Study.check(path)[1] == []
    from PIL import Image

    Image.new("L", (90, 30)).save(path.parent / "images/wide.png")
    (problem,) = Study.check(path)[1]
    assert "90 x 30 pixels" in problem.text


def test_copies_of_an_image(make_study):
    path = make_study()
    images = path.parent / "images"
    (images / "P002/AP.png").write_bytes((images / "P001/PA.png").read_bytes())
    (problem,) = Study.check(path)[1]
    assert (problem.line, problem.fatal) == (7, False)
    assert "'P002/AP.png' has the content of 'P001/PA.png' in line 4" in problem.text


def test_a_model_that_is_not_there_and_one_with_several_classes(make_study, make_bundle):
    spec = '{ spec = "timm:test_resnet", weights = "none", classes = 3, input_size = 64 }'
    path = make_study(effusion="nowhere")
    path = changed(path, model=(f'"{make_bundle("Nodule")}"', spec))
    study, problems = Study.check(path)
    assert study is None
    first, second = sorted(problem.text for problem in problems)
    assert "has 3 classes, say which with class =" in first + second
    assert "nowhere" in first + second
    assert {problem.line for problem in problems} == {10, 13}


def test_one_model_is_loaded_once_for_several_labels(make_study, make_bundle):
    path = changed(make_study(), model=(f'"{make_bundle("Nodule")}"', f'"{make_bundle("Effusion")}"\nclass = 0'))
    study = Study.read(path)
    assert study.model("Nodule")[0] is study.model("Effusion")[0]


def test_a_logit_with_two_names_is_for_the_second(make_study, make_bundle, tmp_path):
    model = cs.load("timm:test_convnext", weights="none", classes=1, labels=["normal", "Effusion"], input_size=64)
    model.save(tmp_path / "two_names")
    path = make_study(effusion=str(tmp_path / "two_names"))
    named, index = Study.read(path).model("Effusion")
    assert (index, named.labels, named.outcome) == (0, ("Effusion",), "any")
