"""Other addresses and names in place of real ones, the same one wherever the real one stands.

What decides an answer is kept: the kind of an address, which addresses are of one network, and the
numbers at the end of a host's name.
"""

import ipaddress
import re
from collections.abc import Iterable

# The longest first. The last 16 digits of an InfiniBand address are a GUID.
_ADDRESS = re.compile(
    r"(?<![\w:.])(?:(?P<infiniband>(?:[0-9a-f]{2}:){19}[0-9a-f]{2})"
    r"|(?P<mac>[0-9a-f]{2}(?:(?::[0-9a-f]{2}){5}|(?:-[0-9a-f]{2}){5}))"
    r"|(?P<guid>(?:[0-9a-f]{4}:){3}[0-9a-f]{4})"
    r"|(?P<ipv6>(?=[0-9a-f]*:[0-9a-f]*:)[0-9a-f:]{2,39}(?:\.\d{1,3}){0,3}))(?![\w:])"
    r"|(?<![\w.])(?P<ipv4>\d{1,3}(?:\.\d{1,3}){3})(?!\w|\.\w)"
    # Of hosts in clouds, and of pods: 10-0-0-1.namespace.pod.
    r"|(?:(?<=\bip-)|(?<![\w.-])(?=[\d-]+\.[a-z]))(?P<dashed>\d{1,3}(?:-\d{1,3}){3})\b",
    re.IGNORECASE | re.ASCII,
)
_HEX_IPV6 = re.compile(r"\b[0-9a-f]{32}\b")
_HEX_IPV4 = re.compile(r"(?<=\t)[0-9A-F]{8}(?=\t)")
# Names end before a dot, and may start with a digit; a number is none.
_WORD = re.compile(r"(?=[0-9-]*[A-Za-z])[A-Za-z0-9][A-Za-z0-9-]*")
# What orchestrators append to a job's name, and words that are too plain to be replaced.
_ROLES = {"master", "worker", "workers", "launcher", "leader", "node", "server", "ps", "chief"}
_PLAIN = {"cluster", "cpu", "cuda", "default", "gpu", "gpus", "host", "internal", "ip", "job"}
_PLAIN |= {"http", "https", "tcp"}
_PLAIN |= {"ip6-allnodes", "ip6-allrouters", "ip6-localhost", "ip6-loopback", "ip6-mcastprefix"}
_PLAIN |= {
    "ip6-localnet",
    "local",
    "localdomain",
    "localhost",
    "name",
    "pci",
    "pod",
    "rdma",
    "slots",
    "svc",
}
_LOW_32, _LOW_64 = (1 << 32) - 1, (1 << 64) - 1
# What the middle of an interface is that was made of a MAC, and the bit that differs from it.
_EUI, _EUI_BIT = 0xFFFE << 24, 1 << 57


class Addresses:
    """Placeholders for addresses: 198.18.0.0 and up, 2001:db8:1:: and up, 02:00:00:00:00:01..."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, int]] = {}

    def __len__(self) -> int:
        return sum(len(seen) - 1 for seen in self._seen.values())

    def in_text(self, text: str, dotted: bool = True) -> str:
        """Replace all addresses of a text.

        Args:
            text: where they stand in any of the usual forms.
            dotted: replace ``10.0.0.1`` too; in sysfs four numbers are a version.

        """
        return _ADDRESS.sub(lambda match: self._written(match, dotted), text)

    def in_table(self, text: str) -> str:
        """Replace the addresses of ``/proc/net/route``, ``if_inet6`` and ``ipv6_route``."""
        text = _HEX_IPV6.sub(lambda match: f"{self.ipv6(int(match[0], 16)):032x}", text)
        return _HEX_IPV4.sub(lambda match: self._little_endian(match[0]), text)

    def ipv4(self, number: int) -> int:
        """Replace the first half of an address: networks from /16 on stay together."""
        half = number >> 16
        # This host, this network, link-local, groups and masks.
        if half >> 8 in {0, 127} or half == 0xA9FE or half >> 8 >= 224:
            return number
        return (198 << 8) + 17 + self._number("network", half) << 16 | number & 0xFFFF

    def ipv6(self, number: int) -> int:
        """Replace the network up to the 48th bit, and the interface after the 64th."""
        if number >> 32 == 0xFFFF:
            return 0xFFFF << 32 | self.ipv4(number & _LOW_32)
        if number < 2 or number >> 120 == 0xFF:
            return number
        site, subnet = number >> 80, number >> 64 & 0xFFFF
        if site >> 38 != 0xFE80 >> 6:
            private = site >> 41 == 0xFC >> 1
            placeholder = 0xFDDB_8000_0000 if private else 0x2001_0DB8_0000
            site = placeholder + self._number("site", site) % 0x10000
        return (site << 16 | subnet) << 64 | self.interface(number & _LOW_64)

    def interface(self, number: int) -> int:
        """Replace a GUID, or the second half of an address; one made of a MAC stays so."""
        if number & 0xFFFF << 24 != _EUI:
            return self._number("interface", number)
        number ^= _EUI_BIT
        mac = self.mac(number >> 40 << 24 | number & 0xFFFFFF)
        return (mac >> 24 << 40 | _EUI | mac & 0xFFFFFF) ^ _EUI_BIT

    def mac(self, number: int) -> int:
        """Replace a hardware address; that of all stays."""
        return number if number == (1 << 48) - 1 else 0x02 << 40 | self._number("mac", number)

    def _number(self, kind: str, value: int) -> int:
        """Return a number of its own for each value but 0."""
        seen = self._seen.setdefault(kind, {0: 0})
        return seen.setdefault(value, len(seen))

    def _written(self, match: re.Match[str], dotted: bool) -> str:
        kind, text = str(match.lastgroup), match[0]
        if kind in {"ipv4", "dashed"} and dotted:
            return self._dotted(text, "-" if kind == "dashed" else ".")
        if kind == "ipv6":
            return self._colons(text)
        digits = int(re.sub("[:-]", "", text), 16) if kind in {"infiniband", "mac", "guid"} else 0
        if kind == "mac" and digits:
            return _joined(f"{self.mac(digits):012x}", 2, text[2])
        if kind == "guid":
            return _joined(f"{self.interface(digits):016x}", 4)
        if kind == "infiniband":
            return _joined(f"{digits & ~_LOW_64 | self.interface(digits & _LOW_64):040x}", 2)
        return text

    def _little_endian(self, text: str) -> str:
        number = int.from_bytes(bytes.fromhex(text), "little")
        return self.ipv4(number).to_bytes(4, "little").hex().upper()

    def _dotted(self, text: str, dot: str) -> str:
        parts = [int(part) for part in text.split(dot)]
        if max(parts) > 255:
            return text
        number = self.ipv4(int.from_bytes(bytes(parts), "big"))
        return dot.join(str(part) for part in number.to_bytes(4, "big"))

    def _colons(self, text: str) -> str:
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            return text
        new = ipaddress.IPv6Address(self.ipv6(int(address)))
        if new == address:  # Or else 0::/ of a control group becomes ::/.
            return text
        return new.exploded if len(text) == len(address.exploded) else str(new)


class Names:
    """Placeholders for what hosts, jobs and namespaces are called: host-a, host-b...

    A name is divided at its dots; numbers at its end, and before them what its host does, stay:
    ``ann-gpt-worker-0.ann-gpt`` becomes ``host-a-worker-0.host-a``.
    """

    def __init__(self, texts: Iterable[str], roles: Iterable[str]) -> None:
        """Find the names.

        Args:
            texts: names of hosts and the like, in lists of any grammar.
            roles: further words that may follow a job's name, as tasks of Volcano do.

        """
        words = "|".join(map(re.escape, sorted({*_ROLES, *roles}, key=len, reverse=True)))
        tail = re.compile(rf"(?:-?\d+|-(?:{words}))*$")
        found = {
            tail.sub("", word) for text in texts for word in _WORD.findall(_ADDRESS.sub(" ", text))
        }
        self._names = sorted(found - _PLAIN - {"", *_ROLES, *roles}, key=lambda n: (-len(n), n))
        # A name is no key of JSON.
        names = "|".join(map(re.escape, self._names)) or "(?!)"
        self._pattern = re.compile(rf"""(?<![A-Za-z0-9])(?:{names})(?![A-Za-z]|\\?"\s*:)""")

    def __len__(self) -> int:
        return len(self._names)

    def in_text(self, text: str) -> str:
        """Replace all names of a text."""
        return self._pattern.sub(lambda match: self._placeholder(match[0]), text)

    def _placeholder(self, name: str) -> str:
        # Without digits: those that may follow are the host's number.
        number, letters = self._names.index(name), ""
        while number >= 0:
            number, letters = number // 26 - 1, chr(ord("a") + number % 26) + letters
        return f"host-{letters}"


def _joined(digits: str, size: int, mark: str = ":") -> str:
    return mark.join(digits[at : at + size] for at in range(0, len(digits), size))
