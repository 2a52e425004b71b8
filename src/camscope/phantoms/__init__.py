"""Phantom chest radiographs: synthetic patients with findings and markers whose place is known."""
