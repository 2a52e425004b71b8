"""The report of a study: one page that is read from disk."""

from camscope.report.page import report

__all__ = ["report"]
