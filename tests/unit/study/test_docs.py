"""The pages about studies do what they say, and name every column and setting."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import camscope as cs
from camscope.study.config import (
    PATTERN,
    AuditSection,
    CohortSection,
    ExplainSection,
    LabelSection,
    StudyFile,
)
from camscope.study.rows import CASE, FILES, MAP, REGION, SCHEMA_VERSION, SCORE

ROOT = Path(__file__).parents[3]
ROWS, STUDY = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("rows.md", "study.md"))


@pytest.fixture
def results(make_study):
    path = make_study()
    list(cs.run(cs.Study.read(path), path.parent / "out", device="cpu"))
    return path.parent / "out"


def test_the_blocks_about_rows_run_one_after_another(results):
    names = {"DIR": results}
    for block in re.findall(r"```python\n(.*?)```", ROWS, re.DOTALL):
        exec(compile(block, "docs/rows.md", "exec"), names)
    assert names["patients"].height == 6
    assert names["heatmap"].shape == (40, 48)


def test_the_block_about_studies_runs(make_study, tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", STUDY, re.DOTALL)
    names = {"STUDY": make_study(), "DIR": tmp_path / "out"}
    exec(compile(block, "docs/study.md", "exec"), names)
    assert len(list((tmp_path / "out/rows").iterdir())) == 1


def test_every_column_has_its_line_and_type():
    table = dict(re.findall(r"^\| (`[^|]+`) \| (\w+(?:\(\w+\))?) \|", ROWS, re.MULTILINE))
    documented = {name: kind for names, kind in table.items() for name in re.findall(r"`([^`]+)`", names)}
    columns = CASE | SCORE | MAP | FILES | {f"{name}:REGION": kind for name, kind in REGION.items()}
    columns |= {"stratum:NAME": "String", "cue:NAME": "Boolean"}
    kinds = {name: re.sub(r"List\((\w+)\)", r"List(\1)", str(kind)) for name, kind in columns.items()}
    assert documented == kinds
    assert f"Version {SCHEMA_VERSION}." in ROWS


def test_every_setting_is_named():
    for section in (CohortSection, LabelSection, ExplainSection, AuditSection):
        for name, setting in section.model_fields.items():
            assert f"`{setting.alias or name}`" in STUDY, name
    assert PATTERN in STUDY


def test_the_study_file_of_the_page_is_one():
    (block,) = re.findall(r"```toml\n(.*?)```", STUDY, re.DOTALL)
    file = StudyFile.model_validate(tomllib.loads(block))
    assert list(file.labels) == ["Effusion", "Lung opacity"]


def test_the_example_of_own_statistics(results):
    spec = importlib.util.spec_from_file_location("own_statistics", ROOT / "examples/own_statistics.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    table = example.enrichments(results)
    assert set(table["region"]) == {"mask:label", "border:0.10"}
    # The second label has no mask of its own.
    assert table.filter(region="mask:label")["label"].to_list() == ["Effusion"]
    assert (table["low"] <= table["enrichment"]).all()
    assert (table["enrichment"] <= table["high"]).all()
    assert table["patients"].to_list() == [4, 4, 2]
