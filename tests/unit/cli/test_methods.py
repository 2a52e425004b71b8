import re

import pytest

from camscope.cli.methods import methods
from camscope.errors import MethodError, SettingError
from camscope.explanation.method_lookup import check_settings, settings_of
from camscope.methods import METHODS
from camscope.methods.meta import META


def test_all_methods_are_listed(capsys):
    methods()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(METHODS) + len(META)
    assert {line.split()[0] for line in lines[1:]} == {*METHODS, *(f"{name}(METHOD)" for name in META)}


def test_made_methods_have_the_settings_of_both(capsys):
    methods("augmented(scorecam)")
    said = capsys.readouterr().out
    assert "--set chunk=(automatic)" in said
    assert "--set scales=[0.9, 1.0, 1.1]" in said


@pytest.mark.parametrize("name", [*METHODS, *(f"{name}(gradcam)" for name in META)])
def test_a_method_is_described_for_the_command(capsys, name):
    methods(name)
    said = capsys.readouterr().out
    assert not re.search(r"^ *(trace|net|inputs|targets|picture|Args|Returns|Raises):", said, re.MULTILINE)
    for line in re.findall(r"^ +--set .*", said, re.MULTILINE):
        assert re.fullmatch(r" {4}--set \w+=\S.*?  +\S.*", line), "a setting without a meaning"
    assert "Needs: " in said
    assert "Reference:" in said


def test_what_a_method_finds_by_itself_is_no_setting():
    assert settings_of(METHODS["guidedgradcam"]) == {}
    assert list(settings_of(METHODS["fullgrad"])) == []


def test_a_setting_that_no_method_takes_is_an_error():
    check_settings({"samples": 3, "alpha": 1}, ["sscam", " finercam"])
    check_settings({}, ["gradcam"])
    with pytest.raises(SettingError, match=r"nearest: 'samples'.*camscope methods sscam"):
        check_settings({"sampels": 3}, ["sscam", "gradcam"])
    with pytest.raises(SettingError, match="no setting called 'chunk': gradcam has no settings"):
        check_settings({"chunk": 3}, ["gradcam"])
    with pytest.raises(MethodError, match="no method called 'gradcm'"):
        check_settings({"chunk": 3}, ["gradcm"])
