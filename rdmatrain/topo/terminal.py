"""Text for a terminal."""

from collections.abc import Iterator
from textwrap import wrap

WIDTH = 100


def printable(text: str) -> str:
    """Escape what could steer a terminal, and what is no character at all."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def item(indent: str, text: str) -> Iterator[str]:
    """Wrap a text whose further lines stand further right; words stay whole."""
    yield from wrap(
        printable(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_on_hyphens=False,
        break_long_words=False,
    )
