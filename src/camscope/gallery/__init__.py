"""Folders of explanations: file names that never clash, an index, a page and a contact sheet."""

from camscope.gallery.folder import MapFolder

__all__ = ["MapFolder"]
