"""Compare two studies of one cohort, such as a model before and after training against a shortcut."""

from camscope.study_comparison.compare import compare_studies

__all__ = ["compare_studies"]
