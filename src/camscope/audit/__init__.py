"""Test whether the models of a study rely on the disease or on a shortcut."""
