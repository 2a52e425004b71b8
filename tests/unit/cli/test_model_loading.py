import warnings

import torch

from camscope.cli.model_loading import load_noted


def test_an_old_name_is_accepted_with_a_note_and_without_a_warning(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_noted("timm:xception", seed=0, weights="none")
    said = capsys.readouterr()
    assert model.net.num_classes == 1000
    assert said.out == ""
    (note,) = said.err.splitlines()
    assert note.startswith("note: timm:xception: ")
    assert note.endswith("legacy_xception.")


def test_random_weights_are_those_of_the_seed(capsys):
    one, same, other = (load_noted("timm:resnet10t", seed=seed, weights="none").net.fc.weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert capsys.readouterr().err == ""
