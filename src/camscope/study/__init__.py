"""Explain a cohort of patients: the study file, the run, and its rows."""
