"""Pseudonyms: what may tell a patient is hidden, and what several patients share stays."""

import polars as pl
import pytest

from camscope.cohort.shown_names import ShownNames

PEOPLE = ("Mueller Anna", "Mueller Bernd", "Klein Eva", "Gross Otto", "Lang Mia")


def names(**columns):
    patients = [name for name in PEOPLE for _ in range(2)]
    table = {"case": range(10), "patient": patients, "image": [f"x/{k:03}_PA.png" for k in range(10)], "group": "PA"}
    return ShownNames(pl.DataFrame(table | columns))


@pytest.mark.parametrize(
    "date",
    [
        *("1961-04-03", "05/03/2021", "3/5/21", "05.03.21", "2021-3-5", "20210305", "20210305101112", "5 Mar 2021"),
        *("March 5, 2021", "on 3.5.2021"),
    ],
)
def test_dates_are_hidden_though_all_patients_share_them(date):
    shown = names(**{"stratum:seen": [date] * 10, "group": [f"PA/{date}"] * 10})
    assert shown.value(date) == "value 1" or "…" in shown.value(date)
    assert date not in shown.value(f"PA/{date}")
    assert shown.value(f"PA/{date}").startswith("PA/")
    assert date not in shown.text(f"seen {date} there")


@pytest.mark.parametrize("kept", ["PA", "50", "50.0", "061", "female", "ward 7", "Site B", "12.5"])
def test_what_several_patients_share_is_kept(kept):
    assert names(**{"stratum:a": [kept] * 10}).value(kept) == kept


def test_numbers_of_one_patient_are_kept_and_words_are_not():
    cells = ["50.0", "50.0", "51", "51", "ward 7", "ward 7", "52", "52", "53", "53"]
    shown = names(**{"stratum:a": cells})
    assert [shown.value(cell) for cell in dict.fromkeys(cells)] == ["50.0", "51", "value 1", "52", "53"]


def test_words_of_names_are_hidden_though_two_patients_share_them():
    shown = names(**{"stratum:family": [name.split()[0] for name in PEOPLE for _ in range(2)]})
    assert "Mueller" not in shown.value("Mueller")
    assert shown.text("patient Mueller Bernd is in it", "Klein Eva") == "patient … … is in it"
    assert shown.text("the file's header is bad: 'Mueller Anna'", None) == "the file's header is bad: …"
    assert shown.text("a 'O'Hara' b \"x\" /home/x/y.png", None) == "a … b … …"
    assert (shown.patient("Gross Otto"), shown.image(3, "x")) == ("P4", "image 4")


def test_without_patients_only_short_and_usual_values_are_kept():
    images = [f"{k}.png" for k in range(10)]
    cells = ["Anna Muster"] * 4 + ["Bernd Kurz"] * 6
    shown = names(patient=images, image=images, **{"stratum:name": cells, "stratum:sex": ["female"] * 10})
    assert not shown.patients_known
    assert [shown.value(text) for text in ("Anna Muster", "Bernd Kurz", "female", "PA")] == [
        *("value 1", "value 2", "female", "PA"),
    ]


def test_without_pseudonyms_all_is_as_it_is():
    shown = ShownNames(None)
    assert (shown.patient("Ann"), shown.image(1, "a.png"), shown.value("x/1961-04-03")) == (
        "Ann",
        "a.png",
        "x/1961-04-03",
    )
