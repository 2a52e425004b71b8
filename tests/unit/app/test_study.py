"""The cases of a study: filters, pictures, reviews of several readers, their agreement and the exported selection."""

from __future__ import annotations

import csv
import io
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from camscope.errors import StoreError
from camscope.phantoms.cohort import BUNDLES
from camscope.study.run import run
from camscope.study.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*images are missing")]

STUDY = """
[cohort]
table = "cohort.csv"
image = "path"
patient = "who"
group = "view"

[labels.Effusion]
column = "effusion"
model = "{effusion}"

[labels.Nodule]
column = "nodule"
model = "{nodule}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    lines = ["path,who,view,effusion,nodule"]
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, 255, (40 + n, 50), np.uint8)
        Image.fromarray(pixels).save(place / f"{n}.png")
        lines.append(f"{n}.png,{'=P' if n == 3 else 'P'}{n // 2},{'AP' if n % 3 else 'PA'},{n % 2},{int(n > 4)}")
    lines.append("gone.png,P9,AP,1,0")
    (place / "cohort.csv").write_text("\n".join(lines))
    file = place / "study.toml"
    file.write_text(STUDY.format(effusion=BUNDLES / "effusion", nodule=BUNDLES / "nodule"))
    for _ in run(Study.read(file), place / "results"):
        pass
    return place / "results"


@pytest.fixture
def client(folder):
    from starlette.testclient import TestClient

    from camscope.app.server import create_app
    from camscope.app.study_cases import StudyCases

    (folder / "reviews.sqlite").unlink(missing_ok=True)
    with TestClient(create_app({}, study=StudyCases(folder)), base_url="http://127.0.0.1:8765") as made:
        yield made


def rows(client, **chosen):
    answer = client.get("/api/study/cases", params=chosen)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def review(client, case, reader, **more):
    body = {"case": case, "label": "Effusion", "reader": reader, "rating": "yes"} | more
    return client.post("/api/study/review", json=body)


@pytest.fixture(scope="module")
def stored(folder):
    return pl.read_parquet(folder / "rows" / "*.parquet").sort("case", "label")


def test_the_rows_are_those_of_the_study(client, stored):
    found = rows(client, label="Effusion")
    table = stored.filter(pl.col("label") == "Effusion")
    assert [row["case"] for row in found] == table["case"].to_list()
    assert [row["probability"] for row in found] == table["probability"].to_list()
    assert client.get("/api/study").json()["labels"]["Nodule"] == {"model": "nodule", "class": 0}


@pytest.mark.parametrize(
    ("chosen", "condition"),
    [
        ({"label": "Nodule"}, pl.col("label") == "Nodule"),
        ({"group": "PA"}, pl.col("group") == "PA"),
        ({"outcome": "FP"}, pl.col("outcome") == "FP"),
        ({"status": "failed"}, pl.col("status") == "failed"),
        ({"text": "p1"}, pl.col("patient").str.contains("P1")),
        ({"low": 0.5}, pl.col("probability") >= 0.5),
        ({"high": 0.2, "label": "Nodule"}, (pl.col("probability") <= 0.2) & (pl.col("label") == "Nodule")),
    ],
)
def test_each_filter_keeps_the_rows_that_the_table_has(client, stored, chosen, condition):
    found = {(row["case"], row["label"]) for row in rows(client, **chosen)}
    assert found == set(stored.filter(condition).select("case", "label").iter_rows())


def test_sorting_by_surprise_begins_with_the_worst_mistake(client):
    found = [row for row in rows(client, sort="surprise") if row["probability"] is not None]
    surprise = [abs(row["truth"] - row["probability"]) for row in found]
    assert surprise == sorted(surprise, reverse=True)
    assert client.get("/api/study/cases?sort=nothing").status_code == 422


def test_a_blinded_reader_sees_no_truth_and_no_answer(client):
    for row in rows(client, blinded="true"):
        assert not {"truth", "probability", "score", "outcome"} & set(row)
    for hidden in ("sort=surprise", "outcome=TP", "low=0.5", "high=0", "sort=probability"):
        assert client.get(f"/api/study/cases?blinded=true&{hidden}").status_code == 422
    text = client.get("/api/study/selection.csv?blinded=true").text
    assert "probability" not in text


def test_the_picture_of_a_case_can_be_explained(client, stored):
    facts = client.post("/api/study/open", json={"case": 2}).json()
    assert (facts["name"], facts["height"]) == ("2.png", 42)
    body = {"model": "effusion", "picture": facts["id"], "targets": [0]}
    found = client.post("/api/explain", json=body).json()["maps"][0]
    row = stored.filter((pl.col("case") == 2) & (pl.col("label") == "Effusion"))
    assert found["score"] == pytest.approx(row["score"].item(), abs=1e-4)


def test_a_case_without_its_picture_says_why(client, folder):
    assert "there is no file" in client.post("/api/study/open", json={"case": 8}).json()["error"]
    assert client.post("/api/study/open", json={"case": 99}).status_code == 422
    image = folder.parent / "0.png"
    before = image.read_bytes()
    Image.new("L", (9, 9)).save(image)
    try:
        assert "has changed" in client.post("/api/study/open", json={"case": 0}).json()["error"]
    finally:
        image.write_bytes(before)


def test_reviews_of_two_readers_are_kept_and_agree_as_cohen_says(client, folder):
    from camscope.statistics.agreement import cohen_kappa, fleiss_kappa

    given = {"Ann": ["yes", "no", "yes", "partly"], "Ben": ["yes", "no", "no", "partly"]}
    for reader, ratings in given.items():
        for case, rating in enumerate(ratings):
            assert review(client, case, reader, rating=rating, flag=case == 1).status_code == 200
    (pair,) = client.get("/api/study/agreement").json()["pairs"]
    assert (pair["readers"], pair["images"], pair["equal"]) == (["Ann", "Ben"], 4, 0.75)
    assert pair["kappa"] == pytest.approx(cohen_kappa(*given.values()))
    for case in range(3):
        review(client, case, "Cem", rating="no")
    third = client.get("/api/study/agreement").json()["all"]
    assert third["images"] == 3
    of_all = [[a, b, "no"] for a, b in zip(*given.values(), strict=True)][:3]
    assert third["kappa"] == pytest.approx(fleiss_kappa(of_all))
    mine = client.get("/api/study/reviews?reader=Ann").json()
    assert {one["reader"] for one in mine} == {"Ann"}
    assert [one["flag"] for one in mine] == [False, True, False, False]
    assert (folder / "reviews.sqlite").is_file()


def test_a_later_review_replaces_the_first(client):
    review(client, 0, "Ann", comment="first")
    review(client, 0, "Ann", comment="second; drop table reviews; --", rating="no", blinded=True)
    (one,) = client.get("/api/study/reviews?reader=Ann").json()
    assert (one["comment"], one["rating"], one["blinded"]) == ("second; drop table reviews; --", "no", True)


def test_the_selection_is_a_table_for_a_spreadsheet(client):
    review(client, 3, "Ann", comment="=1+1")
    review(client, 3, "Ben")
    content = client.get("/api/study/selection.csv?label=Effusion").content.decode("utf-8-sig")
    table = list(csv.DictReader(io.StringIO(content)))
    assert len(table) == 10  # nine cases, one of them with two readers
    two = [row for row in table if row["case"] == "3"]
    assert [(row["reader"], row["comment"]) for row in two] == [("Ann", "'=1+1"), ("Ben", "")]
    assert two[0]["patient"] == "'=P1"


@pytest.mark.parametrize(
    "more",
    [
        {"case": 99},
        {"case": -1},
        {"case": "0"},
        {"label": "Heart"},
        {"reader": ""},
        {"reader": "  "},
        {"reader": "a" * 61},
        {"rating": "perhaps"},
        {"comment": "a" * 4001},
        {"flag": "yes"},
        {"path": "../x"},
    ],
)
def test_reviews_that_cannot_be(client, folder, more):
    answer = client.post("/api/study/review", json={"case": 0, "label": "Effusion", "reader": "Ann"} | more)
    assert answer.status_code == 422
    assert not (folder / "reviews.sqlite").exists()


def test_a_damaged_file_of_reviews_is_one_sentence(client, folder):
    (folder / "reviews.sqlite").write_bytes(b"no database" * 100)
    for answer in (client.get("/api/study/agreement"), review(client, 0, "Ann")):
        assert answer.status_code == 422
        assert "reviews.sqlite cannot be used" in answer.json()["error"]


def test_a_running_study_shows_its_new_rows(folder, tmp_path):
    from camscope.app.bodies import Selection
    from camscope.app.study_cases import StudyCases

    cases = StudyCases(folder)
    before = cases.page(Selection())["total"]
    shard = next((folder / "rows").glob("*.parquet"))
    shutil.copy(shard, tmp_path / "kept.parquet")
    number = int(shard.stem.rpartition("-")[2])
    table = pl.read_parquet(shard)
    from camscope.files import write_parquet

    new = shard.with_name(f"{shard.stem.rpartition('-')[0]}-{number + 1:06d}.parquet")
    write_parquet(new, table.filter(pl.col("case") == 1).with_columns(pl.col("case") + 100))
    try:
        assert cases.page(Selection())["total"] == before + 2
    finally:
        new.unlink()


def test_a_folder_without_a_study(tmp_path):
    from camscope.app.study_cases import StudyCases

    with pytest.raises(StoreError):
        StudyCases(tmp_path)
    with pytest.raises(StoreError, match="there is no folder"):
        StudyCases(tmp_path / "nothing")


def test_the_document_describes_the_addresses_of_the_study(client):
    paths = client.get("/api/openapi.json").json()["paths"]
    for address, operations in paths.items():
        if address.startswith("/api/study"):
            (verb,) = operations
            assert "Not Found" not in client.request(verb, address).text
    assert {one["name"] for one in paths["/api/study/cases"]["get"]["parameters"]} > {"label", "blinded", "sort"}


def test_hostile_filters_and_reviews_end_in_a_sentence(client, folder, tmp_path, monkeypatch):
    from camscope.app.bodies import ReviewBody, Selection

    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    wrong = [
        "../../etc/passwd",
        "\x00",
        "NaN",
        "inf",
        "-1",
        "1e400",
        "9" * 400,
        "%",
        "(?P<a",
        "'; drop table reviews; --",
    ]
    for field in (*Selection.model_fields, "path"):
        for value in wrong:
            for address in ("/api/study/cases", "/api/study/selection.csv"):
                answer = client.get(address, params={field: value})
                assert answer.status_code < 500, (field, value)
                assert "Traceback" not in answer.text
    for field in ReviewBody.model_fields:
        for value in (*wrong, None, [], {}, 10**30, -1, 1.5, True):
            body = {"case": 0, "label": "Effusion", "reader": "Ann"} | {field: value}
            answer = client.post("/api/study/review", json=body)
            assert answer.status_code < 500, (field, value)
    for value in wrong:
        assert client.get("/api/study/reviews", params={"reader": value}).json() is not None
        assert client.post("/api/study/open", json={"case": value}).status_code == 422
    assert sorted(path.name for path in folder.iterdir()) in (before, sorted([*before, "reviews.sqlite"]))
    assert list(tmp_path.iterdir()) == []
