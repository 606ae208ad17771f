"""Registers in the configuration space of a PCI function, as sysfs shows it.

Who is not root sees the first 64 bytes, which have none of the capabilities.
"""

import os
from dataclasses import dataclass

from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import FUNCTIONS

# What everybody may read, and where the extended capabilities start.
HEADER, EXTENDED = 64, 256
_LIST_BIT, _STATUS, _FIRST = 0x10, 0x06, 0x34
_EXPRESS, _ACS = 0x10, 0x000D
# A list of capabilities that is longer than the space goes round in a circle.
_MOST = 1024
_RELAXED = 1 << 4
_REDIRECTS = 0x0C


@dataclass(frozen=True)
class ConfigSpace:
    """What can be read of it.

    Attributes:
        data: its bytes, from the first on.

    """

    data: bytes

    @property
    def is_cut(self) -> bool:
        """Whether capabilities cannot be seen."""
        return len(self.data) <= HEADER

    def relaxed_ordering(self) -> bool | None:
        """Tell whether the function may relax the order of what it writes; None: not seen."""
        place = self._capability(_EXPRESS)
        control = self._word(place + 8) if place else None
        return None if control is None else bool(control & _RELAXED)

    def redirects(self) -> bool | None:
        """Tell whether ACS sends what goes between two below it to the root; None: not seen."""
        if len(self.data) <= EXTENDED:
            return None
        place = self._extended(_ACS)
        control = self._word(place + 6) if place else 0
        return None if control is None else bool(control & _REDIRECTS)

    def _capability(self, wanted: int) -> int:
        status = self._word(_STATUS)
        if self.is_cut or status is None or not status & _LIST_BIT:
            return 0
        place = self.data[_FIRST] & 0xFC
        for _ in range(_MOST):
            header = self._word(place)
            if place < HEADER or header is None:
                return 0
            if header & 0xFF == wanted:
                return place
            place = (header >> 8) & 0xFC
        return 0

    def _extended(self, wanted: int) -> int:
        place = EXTENDED
        for _ in range(_MOST):
            kind, rest = self._word(place), self._word(place + 2)
            if place < EXTENDED or kind is None or rest is None:
                return 0
            if kind == wanted:
                return place
            place = rest >> 4 & 0xFFC
        return 0

    def _word(self, place: int) -> int | None:
        word = self.data[place : place + 2]
        return int.from_bytes(word, "little") if len(word) == 2 else None


def config_space(source: Source, pci: str) -> ConfigSpace | None:
    """Return what can be read of a function's; None if nothing can.

    Args:
        source: where to read.
        pci: its address.

    """
    text = source.text(f"{FUNCTIONS}/{pci}/config")
    # Bytes that are no text come as surrogates.
    return ConfigSpace(os.fsencode(text)) if text else None
