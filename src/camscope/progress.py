"""The type of functions that show progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, what of it is done, and its total."""
