"""What is rendered: objects of Kubernetes, and notes of which field became what, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# As json.loads gives it: str, int, float, bool, None, list, dict with str keys.
Object = dict[str, Any]


@dataclass(frozen=True)
class Note:
    """What a field of the spec became.

    Attributes:
        field: of the spec, with dots: ``network.vfs``; empty for what no field asked for.
        became: object, path and value: ``Job/llm spec.completions: 16``.
        why: one sentence.
        urgent: whoever renders has to know it before the objects are applied.

    """

    field: str
    became: str
    why: str
    urgent: bool = False


@dataclass(frozen=True)
class Part:
    """Some of the objects of a job.

    Attributes:
        objects: in the order in which they are to be applied.
        notes: of the fields that they came from.
        texts: what is no object, such as a script: the name of its file, and the text.

    """

    objects: tuple[Object, ...] = ()
    notes: tuple[Note, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


def together(parts: Iterable[Part]) -> Part:
    """Return all objects, notes and texts, in order."""
    all_parts = tuple(parts)
    return Part(
        tuple(each for part in all_parts for each in part.objects),
        tuple(each for part in all_parts for each in part.notes),
        tuple(each for part in all_parts for each in part.texts),
    )
