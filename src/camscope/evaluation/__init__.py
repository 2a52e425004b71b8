"""Evaluation of methods by metrics on annotated images, and the sanity check of a model's maps."""
