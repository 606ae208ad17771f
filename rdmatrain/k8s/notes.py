"""Collects the notes of one object, so that each is a line where the field is made."""

import json
from typing import Any

from rdmatrain.k8s.parts import Note


class Notes:
    """The notes of an object, or of a part of one.

    Attributes:
        owner: how notes call it: ``Job/llm`` or ``Job/llm spec.template``.

    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._notes: list[Note] = []

    def add(self, field: str, path: str, value: Any, why: str, *, urgent: bool = False) -> None:
        """Note what a field of the spec became.

        Args:
            field: of the spec; empty for what no field asked for.
            path: in this object.
            value: there; anything but text is shown as JSON.
            why: one sentence.
            urgent: ``render`` prints the sentence, too: what a person must do, or is deprived of.

        """
        # The path of a part goes on with a dot, that of an object begins after a space.
        joint = "." if " " in self.owner else " "
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        self._notes.append(Note(field, f"{self.owner}{joint}{path}: {text}", why, urgent))

    def all(self) -> tuple[Note, ...]:
        """Return them, in order."""
        return tuple(self._notes)
