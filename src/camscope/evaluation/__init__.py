"""Methods judged by metrics over annotated pictures, and whether maps can be believed."""
