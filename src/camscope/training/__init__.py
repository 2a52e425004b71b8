"""Train a model, evaluate it on held-out patients, and explain its failures."""
