import polars as pl
import pytest

from camscope.cohort.sampling import drawn_cases


@pytest.fixture
def rows():
    """300 patients of two cases; one in ten is ill, one in thirty has a cue, of a few that is not known."""
    numbers = range(600)
    return pl.DataFrame(
        {
            "case": numbers,
            "patient": [f"P{n // 2}" for n in numbers],
            "truth": [n // 2 % 10 == 0 for n in numbers],
            "cue": [None if n // 2 % 50 == 7 else n // 2 % 30 in (0, 5) for n in numbers],
        }
    )


def test_all_cases_where_there_is_room(rows):
    assert drawn_cases(rows, by=["truth"], limit=600, seed=0) == list(range(600))
    assert drawn_cases(rows.sample(fraction=1, shuffle=True, seed=1), by=["truth"], limit=600, seed=0)[:2] == [0, 1]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_rows(rows):
    one = drawn_cases(rows, by=["truth", "cue"], limit=80, seed=0)
    assert one == drawn_cases(rows.sample(fraction=1, shuffle=True, seed=1), by=["truth", "cue"], limit=80, seed=0)
    assert one == sorted(one)
    assert one != drawn_cases(rows, by=["truth", "cue"], limit=80, seed=1)


def test_each_kind_is_drawn_as_often_as_any_other_while_there_are_patients(rows):
    drawn = rows.filter(pl.col("case").is_in(drawn_cases(rows, by=["truth", "cue"], limit=60, seed=0)))
    patients = dict(
        drawn.group_by("truth", "cue")
        .agg(pl.col("patient").n_unique())
        .select(pl.concat_str("truth", pl.col("cue").fill_null("unknown"), separator=" "), "patient")
        .rows()
    )
    every = rows.group_by("truth", "cue").agg(pl.col("patient").n_unique())
    assert set(patients.values()) == {6}
    assert len(patients) == len(every) == 5
    more = rows.filter(pl.col("case").is_in(drawn_cases(rows, by=["truth", "cue"], limit=120, seed=0)))
    assert more.filter(pl.col("truth") & pl.col("cue"))["patient"].n_unique() == 10, "all that there are"
    assert len(more) == 120


def test_patients_are_drawn_whole(rows):
    drawn = rows.filter(pl.col("case").is_in(drawn_cases(rows, by=["truth"], limit=50, seed=0)))
    assert set(drawn.group_by("patient").len()["len"]) == {2}
    odd = rows.filter(pl.col("case").is_in(drawn_cases(rows, by=["truth"], limit=51, seed=0)))
    assert sorted(odd.group_by("patient").len()["len"])[:2] == [1, 2]
    one = drawn_cases(rows.with_columns(pl.lit("P").alias("patient")), by=["truth"], limit=5, seed=0)
    assert one == [0, 1, 2, 3, 4]


def test_a_case_of_several_rows_counts_once_and_for_its_rarest_kind(rows):
    both = pl.concat([rows.with_columns(label=pl.lit("A")), rows.with_columns(~pl.col("truth"), label=pl.lit("B"))])
    drawn = drawn_cases(both, by=["label", "truth"], limit=40, seed=0)
    assert len(set(drawn)) == 40
    assert rows.filter(pl.col("case").is_in(drawn))["truth"].sum() == 20
