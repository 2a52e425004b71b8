"""Train a model, judge it on held-out patients, and explain its failures."""
