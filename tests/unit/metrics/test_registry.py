import pytest
import torch

import camscope as cs
from camscope.errors import SettingError
from camscope.metrics import FACTS, KINDS, METRICS, Facts, kind, metric


def test_every_metric_has_facts_and_a_kind():
    assert METRICS.keys() == FACTS.keys()
    assert {kind(function) for function in METRICS.values()} == set(KINDS.values())
    assert cs.METRICS is METRICS


def test_a_metric_of_ones_own_is_registered_in_three_lines():
    @metric(Facts("low"))
    def emptiness(maps):
        return (maps <= 0).double().mean((1, 2))

    try:
        assert cs.METRICS["emptiness"](torch.tensor([[[1.0, -1.0]]])).item() == 0.5
        assert kind(emptiness) == "complexity"
    finally:
        del METRICS["emptiness"], FACTS["emptiness"]


def test_a_function_of_other_parameters_is_no_metric():
    with pytest.raises(KeyError):
        kind(lambda pictures: pictures)


@pytest.mark.parametrize(("name", "masks"), [("pointing", (2, 8, 8)), ("iou", (3, 8)), ("auprc", (1, 8, 8))])
def test_masks_that_do_not_fit(name, masks):
    with pytest.raises(SettingError, match="one mask"):
        METRICS[name](torch.rand(3, 4, 4), torch.ones(masks, dtype=torch.bool))


def test_maps_that_do_not_compare():
    with pytest.raises(SettingError, match="on one grid"):
        METRICS["ssim"](torch.rand(3, 4, 4), torch.rand(3, 5, 4))
