"""Text for the terminal."""


def one_line(text: str) -> str:
    r"""Return a text on one line; characters that would steer the terminal are replaced.

    >>> one_line("two\nlines, \x1b[2J").isprintable()
    True
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
