"""Tests and intervals in which the patient is the unit."""
