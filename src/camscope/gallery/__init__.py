"""Folders of explanations: file names that never clash, an index, a page and a contact sheet."""

from camscope.gallery.folder import PATTERN, MapFolder

__all__ = ["PATTERN", "MapFolder"]
