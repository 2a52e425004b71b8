"""Scan a folder of images without labels, and rank what is odd."""

from camscope.scan.run import ScanPlan, scan

__all__ = ["ScanPlan", "scan"]
