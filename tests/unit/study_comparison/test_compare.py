import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest

from camscope.audit.audit import audit
from camscope.errors import StoreError
from camscope.files import write_parquet
from camscope.statistics.paired import mean_of, paired_auc, paired_difference
from camscope.study.run import run
from camscope.study.study import Study
from camscope.study_comparison import compare_studies
from camscope.study_comparison.differences import AucDifference, EffectDifference, effect_differences
from camscope.study_comparison.figures import effect_rows
from camscope.study_comparison.matching import MatchedLabel
from camscope.study_comparison.notes import edit_notes
from camscope.study_comparison.sentences import answer
from running import inside


def run_two(make_study, make_bundle, count, *, audit_settings=""):
    """Run two studies; the models of Effusion differ, those of Nodule are the same. Return their files and folders."""
    runs = []
    for name, seed in (("a", 0), ("b", 1)):
        file = make_study(count, folder=name, explain='when = "all"', effusion=make_bundle("Effusion", seed))
        file.write_text(f"{file.read_text(encoding='utf-8')}{audit_settings}", encoding="utf-8")
        list(run(Study.read(file), file.parent / "out", device="cpu"))
        runs.append((file, file.parent / "out"))
    return runs


@pytest.fixture(scope="module")
def kept():
    """The folders of studies that have been run once."""
    return []


@pytest.fixture
def studies(kept, make_study, make_bundle, tmp_path, tmp_path_factory):
    """Copies of two studies of 24 images of 12 patients."""
    if not kept:
        place = tmp_path_factory.mktemp("studies")
        kept += [shutil.copytree(out, place / out.parent.name) for _, out in run_two(make_study, make_bundle, 24)]
    return tuple(shutil.copytree(folder, tmp_path / "results" / folder.name) for folder in kept)


def edited(study, change):
    """Rewrite the rows of a study."""
    for shard in (study / "rows").glob("*.parquet"):
        write_parquet(shard, change(pl.read_parquet(shard)))


def test_equal_models_have_no_difference_and_others_a_paired_test(studies):
    a, b = studies
    comparison = compare_studies(a, b)
    effusion, nodule = comparison.labels
    assert (comparison.images.only_a, comparison.images.only_b, comparison.images.patients) == (0, 0, 12)
    assert nodule.same
    assert nodule.sentence.startswith("There is no difference: every score is equal. The AUC is ")
    assert "Both studies used the same weights." in nodule.notes
    assert not effusion.same
    scores = [pl.read_parquet(s / "rows/*.parquet").filter(pl.col("label") == "Effusion").sort("case") for s in studies]
    patients = np.repeat(np.arange(12), 2)
    first, second = (table["log_odds"].to_numpy() for table in scores)
    expected = paired_auc(first, second, scores[0]["truth"].to_numpy(), patients)
    assert effusion.auc.auc == expected
    assert effusion.auc.p_adjusted == expected.p  # the label with equal models is no test
    assert [entry.region for entry in effusion.heat] == ["mask:label", "border:0.10"]
    present = scores[0].filter("truth")
    masses = present["mass:border:0.10"].mean() / present["area:border:0.10"].mean()
    assert effusion.heat[1].enrichment.first.estimate == pytest.approx(masses)
    text = (b / "comparison.html").read_text(encoding="utf-8")
    assert f"Effects are not compared: A has no audit of its rows. Run `camscope audit {a}` first." in text
    content = json.loads((b / "comparison.json").read_text(encoding="utf-8"))
    assert content["labels"][0]["auc"]["auc"]["p"] == expected.p
    assert [entry["p_adjusted"] for entry in content["labels"][0]["heat"]] != [1, 1]
    assert content["labels"][1]["auc"]["p_adjusted"] == 1


def test_images_of_one_study_and_other_truths_are_counted_and_left_out(studies):
    a, b = studies
    edited(b, lambda rows: rows.filter(pl.col("case") != 0).with_columns(case=23 - pl.col("case")))
    flips = (pl.col("case") == 3) & (pl.col("label") == "Effusion")
    edited(a, lambda rows: rows.with_columns(truth=pl.when(flips).then(~pl.col("truth")).otherwise("truth")))
    unknown = (pl.col("case") == 4) & (pl.col("label") == "Effusion")
    edited(a, lambda rows: rows.with_columns(truth=pl.when(unknown).then(None).otherwise("truth")))
    merged = pl.col("patient").replace("P005", "P004")
    edited(b, lambda rows: rows.with_columns(patient=merged))
    comparison = compare_studies(a, b)
    assert (comparison.images.only_a, comparison.images.only_b, comparison.images.patients) == (1, 0, 11)
    assert "1 image is only in A and left out." in comparison.notes
    assert any("different patients" in text for text in comparison.notes)
    effusion, nodule = comparison.labels
    assert (effusion.images, nodule.images) == (21, 23)
    assert nodule.same
    assert "1 image has another truth in A than in B and is left out." in effusion.notes
    assert "1 image has no known truth in one of the studies and is left out." in effusion.notes


def test_images_of_one_path_with_other_files_are_named(studies, tmp_path):
    a, b = studies
    sha = pl.when(pl.col("case") < 5).then(pl.col("case").cast(pl.String)).otherwise("image_sha256")
    edited(b, lambda rows: rows.with_columns(image_sha256=sha))
    text = "Of these, 5 images have the same path in both studies, but other files"
    names = ": P000/AP.png, P000/PA.png, P001/AP.png, and 2 more."
    assert f"{text}{names}" in compare_studies(a, b).notes
    assert f"{text}." in compare_studies(a, b, out=tmp_path, pseudonyms=True).notes
    assert "P001/AP" not in (tmp_path / "comparison.json").read_text() + (tmp_path / "comparison.html").read_text()
    edited(b, lambda rows: rows.with_columns(image_sha256=pl.lit("0")))
    with pytest.raises(StoreError, match="and 24 images with the same path have other files"):
        compare_studies(a, b)


def test_outputs_that_are_the_same_are_told(studies):
    a, b = studies
    edited(b, lambda rows: rows.with_columns(log_odds=0.5 + 1e-8 * pl.col("case")))
    effusion, _ = compare_studies(a, b).labels
    assert "In B, the outputs are the same for all images." in effusion.notes
    assert effusion.auc.auc.second.estimate == 0.5


def test_a_region_with_another_mask_is_left_out(studies):
    a, b = studies
    other = (pl.col("case") < 4) & (pl.col("label") == "Effusion")
    area = pl.col("area:mask:label")
    edited(b, lambda rows: rows.with_columns(pl.when(other).then(area / 2).otherwise(area).alias("area:mask:label")))
    effusion, _ = compare_studies(a, b).labels
    assert "The region the finding itself differs in 4 images, which are left out for it." in effusion.notes
    assert {entry.region: entry.images for entry in effusion.heat} == {"mask:label": 10, "border:0.10": 12}


def test_studies_without_a_common_image_or_label_are_refused(studies):
    a, b = studies
    edited(b, lambda rows: rows.with_columns(image_sha256=pl.lit("0")))
    with pytest.raises(StoreError, match="have no image in common"):
        compare_studies(a, b)
    record = json.loads((b / "study.json").read_text())
    record["study"]["labels"] = {"Mass": record["study"]["labels"]["Nodule"]}
    (b / "study.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"no label is in both studies: .* has Effusion, Nodule, and .* has Mass"):
        compare_studies(a, b)


def test_the_command_prints_the_answers_and_refuses_options_of_one_study(studies, tmp_path):
    a, b = studies
    done = inside("report", a, b, "--out", tmp_path / "new", "--pseudonyms")
    assert done.returncode == 0
    assert "note: Nodule: Both studies used the same weights." in done.stderr.splitlines()
    assert done.stdout.splitlines()[1].startswith("Nodule: There is no difference")
    text = (tmp_path / "new/comparison.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert inside("report", a, b, "--csv").returncode == 2
    assert inside("report", a, "--out", tmp_path).stderr.startswith("camscope: --out is the folder of a comparison")


def label_of(count):
    """A label with 2 images per patient, of which every second patient has it."""
    draw = np.random.default_rng(0)
    cases = np.arange(2 * count)
    rows = pl.DataFrame({"case_a": cases, "case_b": cases[::-1].copy(), "patient": cases // 2})
    truth = pl.Series("truth", (cases // 2) % 2 == 0)
    scores = draw.normal(size=(2, 2 * count))
    rows = rows.with_columns(truth, log_odds_a=pl.Series(scores[0]), log_odds_b=pl.Series(5 * scores[1]))
    return MatchedLabel(rows, 0, 0, 0, {}, 0, ([], []))


def changes_of(cases, effects, *, fill_ins=("donor", "mean"), region="border:0.10"):
    return pl.DataFrame(
        {"case": int(case), "region": region, "test": "remove", "by": "", "fill_in": fill, "effect": float(effect + k)}
        for case, effect in zip(cases, effects, strict=True)
        for k, fill in enumerate(fill_ins)
    )


def test_effects_are_means_over_the_fill_ins_that_both_audits_used():
    matched = label_of(40)
    draw = np.random.default_rng(1)
    a, b = 3 + 0.1 * draw.normal(size=80), 0.1 * draw.normal(size=80)
    first = changes_of(matched.rows["case_a"], a)
    second = changes_of(matched.rows["case_b"], b, fill_ins=("donor", "blur"))
    found, few = effect_differences(matched, first, second)
    assert few == 0
    assert [(e.stratum, e.fill_ins, e.images, e.sd.patients) for e in found] == [
        ("present", ["donor"], 40, 20),
        ("absent", ["donor"], 40, 20),
    ]
    present = matched.rows["truth"].to_numpy()
    means = [values[present].reshape(-1, 2).mean(1) for values in (a, b)]
    expected = paired_difference(mean_of(means[0]), mean_of(means[1]), fewest=20)
    assert found[0].log_odds.difference.estimate == pytest.approx(expected.difference.estimate)
    assert found[0].log_odds.p == pytest.approx(expected.p)
    scores = matched.rows.filter("truth").group_by("patient").agg(pl.col("log_odds_a", "log_odds_b").mean())
    sds = [scores["log_odds_a"].std(), scores["log_odds_b"].std()]
    assert found[0].scales == pytest.approx(sds)
    assert found[0].sd.first.estimate == pytest.approx(means[0].mean() / sds[0])


def test_a_sham_at_the_same_place_is_no_fill_in():
    first = changes_of(range(20), np.zeros(20), fill_ins=("donor", "same place"))
    second = changes_of(range(20), np.zeros(20), fill_ins=("donor",))
    notes = list(edit_notes([effect_of(1.0, 0.5)], first, second, few=0))
    assert notes == ["Only A has shams at the same place of other patients: these removals are not compared."]


def test_effects_of_few_patients_are_counted():
    matched = label_of(10)
    changes = changes_of(matched.rows["case_a"], np.zeros(20))
    found, few = effect_differences(matched, changes, changes.with_columns(case=19 - pl.col("case")))
    assert (found, few) == ([], 2)


def effect_of(first, second, *, spread=(1.0, 1.0), p=0.0001):
    draw = np.random.default_rng(2)
    scores = [draw.normal(size=30) * s for s in spread]
    values = [
        mean * np.std(x, ddof=1) + 0.05 * s * draw.normal(size=30)
        for mean, x, s in zip((first, second), scores, spread, strict=True)
    ]
    within = [mean_of(v, within=x) for v, x in zip(values, scores, strict=True)]
    raw = [mean_of(v) for v in values]
    sd, log_odds = paired_difference(*within, fewest=30), paired_difference(*raw, fewest=30)
    scales = tuple(float(x.std(ddof=1)) for x in scores)
    return EffectDifference("border:0.10", "present", "exchange", "label", ["donor 1"], 60, sd, log_odds, scales, p)


def test_the_sentence_says_what_changed_in_which_unit():
    truth, scores = np.arange(30) % 2 == 0, np.random.default_rng(3).normal(size=30)
    auc = AucDifference(60, 30, paired_auc(scores + truth, scores + truth, truth, np.arange(30)), 1.0)
    text = answer(auc, [effect_of(1.8, 0.2)], same=False)
    assert text.startswith(
        "The effect of the border, outer 10 % (exchange by label, images with the label) fell from 1.8"
    )
    assert "SD (difference −1." in text
    assert ", p < .001); the AUC is " in text
    assert "log-odds" not in text
    text = answer(auc, [effect_of(1.8, 0.6, spread=(1.0, 5.0))], same=False)
    assert "fell from 1.8" in text
    assert ", but in log-odds it went from " in text
    text = answer(auc, [effect_of(0.5, 0.5, p=0.8)], same=False)
    assert text.startswith("No effect is shown to differ; the largest difference is that of the border")
    assert answer(auc, [], same=False).startswith("The AUC is ")


def test_a_difference_without_an_interval_says_why():
    truth, scores = np.arange(30) % 2 == 0, np.random.default_rng(3).normal(size=30)
    auc = AucDifference(60, 30, paired_auc(scores, scores, truth, np.arange(30)), 1.0)
    values = np.random.default_rng(4).normal(size=30)
    alike = paired_difference(mean_of(values), mean_of(values + 0.5), fewest=30)
    effect = dataclasses.replace(effect_of(1.0, 1.0), sd=alike, p_adjusted=float("nan"))
    assert "difference 0.50 SD, no interval: all patients differ by the same amount" in answer(
        auc, [effect], same=False
    )
    assert effect_rows("Mass", [effect])[0][6] == "0.50 (no interval: all patients differ by the same amount)"
    undefined = paired_difference(mean_of(values, within=np.zeros(30)), mean_of(values), fewest=30)
    effect = dataclasses.replace(effect, sd=undefined)
    assert "the difference is not defined" in answer(auc, [effect], same=False)


@pytest.mark.slow
def test_the_effects_are_those_of_the_audits(make_study, make_bundle):
    runs = run_two(make_study, make_bundle, 40, audit_settings="replicates = 99\n")
    contents = [audit(Study.read(file), out, device="cpu") for file, out in runs]
    (_, a), (_, b) = runs
    effusion, nodule = compare_studies(a, b).labels
    assert nodule.same
    assert "every score and effect is equal" in nodule.sentence
    pairs = {(e.region, e.stratum, e.test, e.by): e for e in (*effusion.effects, *effusion.properties)}
    tested = 0
    for content, side in zip(contents, ("first", "second"), strict=True):
        entries = content["labels"]["Effusion"]
        regions = entries["regions"] | {f"property:{name}": entry for name, entry in entries["properties"].items()}
        for region, entry in regions.items():
            for effect in entry["effects"]:
                key = (region, effect["stratum"], effect["test"], effect["by"])
                if key in pairs and pairs[key].images == effect["cases"]:
                    tested += 1
                    assert getattr(pairs[key].sd, side).estimate == pytest.approx(
                        effect["effect"]["estimate"], abs=1e-9
                    )
    assert tested > 10
    changes = pl.read_parquet(b / "audit_changes.parquet")
    changes.drop("effect").write_parquet(b / "audit_changes.parquet")
    assert any("of B is of an earlier version" in text for text in compare_studies(a, b).notes)
