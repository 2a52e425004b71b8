"""A cohort of patients explained: the study file, the run, and its rows."""
