"""Attributes as sysfs and procfs have them: one short line of ASCII, or nothing at all."""

import re

from rdmatrain.discovery.source import Source

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def attribute(source: Source, path: str) -> str:
    """Return the text of an attribute; empty where there is none, or where reading it fails."""
    text = source.text(path) or ""
    return text.strip() if text.isascii() else ""


def number(source: Source, path: str) -> int | None:
    """Return the number that an attribute holds; None where it cannot be read as one."""
    text = attribute(source, path)
    return int(text) if _NUMBER.fullmatch(text) else None
