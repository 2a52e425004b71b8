"""Write the report of a study: one HTML page that opens from disk."""

from camscope.report.page import report

__all__ = ["report"]
