"""Hypothesis tests and confidence intervals over patients."""
