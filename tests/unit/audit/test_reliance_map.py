import importlib.util
from pathlib import Path

import numpy as np

from camscope.audit.interventions import scored
from camscope.audit.reliance_map import cell_edits, cells_of, reliance_map
from camscope.audit.samples import PatchDonors, one_per_patient
from camscope.audit.settings import AuditSettings

spec = importlib.util.spec_from_file_location("audit_conftest", Path(__file__).with_name("conftest.py"))
known = importlib.util.module_from_spec(spec)
spec.loader.exec_module(known)
SETTINGS = AuditSettings(replicates=999)


def mapped(subjects, score, cells=(4, 4)):
    recipients = one_per_patient(subjects, 100)
    edits = cell_edits(recipients, cells, donors=PatchDonors(subjects, seed=0))
    changes, _ = scored(edits, score=score)
    return reliance_map(known.rows_of(subjects, score), changes, cells, settings=SETTINGS)


def corner_of(inputs):
    return inputs[:, 0, :6, :6].mean((1, 2)) * 20


def carries_token(agreement):
    return lambda truth, draw: draw.random() < (agreement if truth else 1 - agreement)


def marked(subjects):
    """A token in the upper left corner of the images whose cue is on, of which no region is declared."""
    for subject in subjects:
        subject.x[:, 1:5, 1:5] = 1.0 if subject.case.cues["token"] else 0.0
    return subjects


def test_an_undeclared_token_that_goes_with_the_label_is_found():
    found = mapped(marked(known.make_subjects(carries=carries_token(0.9))), corner_of)
    assert np.unravel_index(np.nanargmax(found.use), found.use.shape) == (0, 0)
    assert found.use_p[0, 0] < 0.05
    assert np.nanmax(np.delete(found.use.ravel(), 0)) < 0.05
    assert "row 1, column 1" in found.sentence
    assert found.patients <= 40


def test_a_balanced_token_is_found_as_a_response_and_not_as_a_use():
    found = mapped(marked(known.make_subjects(carries=carries_token(0.5))), corner_of)
    assert np.unravel_index(np.nanargmax(found.response), found.response.shape) == (0, 0)
    assert found.response_p[0, 0] < 0.05
    assert "Cells that help to separate the classes: none" in found.sentence or found.use_p[0, 0] > 0.01


def test_a_model_of_the_whole_image_has_no_cell_that_stands_out():
    subjects = known.make_subjects(carries=lambda truth, draw: False)
    found = mapped(subjects, lambda inputs: inputs.mean(axis=(1, 2, 3)) * 20)
    assert found.response.max() < 4 * np.median(found.response)


def test_log_odds_that_do_not_vary_have_no_map():
    found = mapped(known.make_subjects(), lambda inputs: np.zeros(len(inputs)))
    assert "the log-odds do not vary" in found.sentence


def test_too_few_patients_have_no_map():
    found = mapped(known.make_subjects(10), corner_of)
    assert found.reason
    assert "There is no reliance map" in found.sentence
    assert found.response.shape == (0, 0)


def test_a_coarse_grid_has_as_many_cells_as_the_maps():
    assert cells_of((3, 24)) == (3, 7)
