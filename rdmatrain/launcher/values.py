"""How the text of an option or variable becomes a value; what is no value says what would be.

Each reader returns the value, or raises ``ValueError`` with what to give, as in "a number from 1 to
65535".
"""

import re
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

Reader = Callable[[str], Any]

DEVICES = ("auto", "gpu", "cpu", "xpu")
_STREAMS = re.compile(r"[0-3]|[0-9]+:[0-3](,[0-9]+:[0-3])*")
_HOST = re.compile(r"[0-9A-Za-z_.:%-]{1,253}")
MAX_NODES = 1_000_000
MAX_WORKERS = 1024
MAX_S = 365 * 86400.0


class Nodes(NamedTuple):
    """How many nodes, at least and at most."""

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}:{self.most}"


class HostPort(NamedTuple):
    """A host and a port; None where only a host was given."""

    host: str
    port: int | None

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def text(given: str) -> str:
    """Read any text but an empty one, which is what a shell's unset variable leaves."""
    if not given.strip():
        raise ValueError("a text, or leave it out")
    return given


def one_of(*choices: str) -> Reader:
    """Return a reader of one of the words."""

    def read(given: str) -> str:
        if given not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return given

    return read


def number(least: int, most: int) -> Reader:
    """Return a reader of whole numbers in a range."""

    def read(given: str) -> int:
        found = int(given) if re.fullmatch(r"\s*[0-9]{1,9}\s*", given) else -1
        if not least <= found <= most:
            raise ValueError(f"a number from {least} to {most}")
        return found

    return read


def seconds(given: str) -> float:
    """Read a number of seconds, which may have a fraction."""
    plain = re.fullmatch(r"\s*([0-9]{1,9}(\.[0-9]{0,6})?)s?\s*", given)
    if plain is None or float(plain[1]) > MAX_S:
        raise ValueError("a number of seconds")
    return float(plain[1])


def flag(given: str) -> bool:
    """Read a flag from a variable, by torchrun's rule: a number, and 0 is no."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", given):
        raise ValueError("1 or 0")
    return int(given) != 0


def nodes(given: str) -> Nodes:
    """Read ``N`` or ``MIN:MAX``."""
    match = re.fullmatch(r"\s*([0-9]{1,7})(?::([0-9]{1,7}))?\s*", given)
    least = int(match[1]) if match else 0
    most = int(match[2]) if match and match[2] else least
    if not 1 <= least <= most <= MAX_NODES:
        raise ValueError("a number of nodes, 1 or more, or MIN:MAX")
    return Nodes(least, most)


def workers(given: str) -> int | str:
    """Read how many workers, or of which devices there is to be one each."""
    plain = given.strip()
    if plain in DEVICES:
        return plain
    if not re.fullmatch("[0-9]{1,4}", plain) or not 1 <= int(plain) <= MAX_WORKERS:
        raise ValueError(f"the number of workers, 1 or more, or one of {', '.join(DEVICES)}")
    return int(plain)


def host(given: str) -> str:
    """Read a host name or an address; one of IPv6 may be in brackets."""
    plain = given.strip()
    bare = plain[1:-1] if re.fullmatch(r"\[.*\]", plain) else plain
    if not _HOST.fullmatch(bare):
        raise ValueError("a host name or an address")
    return bare


def endpoint(given: str) -> HostPort:
    """Read ``HOST`` or ``HOST:PORT``, with an address of IPv6 in brackets."""
    match = re.fullmatch(r"\s*(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?\s*", given)
    port = int(match[2]) if match and match[2] else None
    try:
        if match is None or (port or 0) > 65535:
            raise ValueError
        return HostPort(host(match[1]), port)
    except ValueError:
        raise ValueError("HOST:PORT, as in node-0:29500 or [fd00::1]:29500") from None


def streams(given: str) -> str:
    """Read which streams: a digit, or one for each local rank; ``-r=3`` leaves ``=3``."""
    plain = given.strip().removeprefix("=")
    if not _STREAMS.fullmatch(plain):
        raise ValueError("0, 1, 2 or 3 (none, stdout, stderr, both), or by local rank: 0:3,1:1")
    return plain


def ranks(given: str) -> tuple[int, ...]:
    """Read numbers with commas between them."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*)*", given):
        raise ValueError("local ranks with commas between them: 0,1")
    return tuple(sorted({int(each) for each in given.split(",")}))


def rank_ranges(given: str) -> tuple[int, ...]:
    """Read numbers and ranges of them, with commas between them."""
    found: set[int] = set()
    for item in given.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", item)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if low > high:
            raise ValueError("ranks, or the first and last of some, with commas: 0,3-5")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def texts(given: str) -> tuple[str, ...]:
    """Read texts with commas between them; two commas are one of a text."""
    parts = given.replace(",,", "\0").split(",")
    found = tuple(part.replace("\0", ",") for part in parts)
    if not all(found):
        raise ValueError("texts with commas between them; ,, is a comma of a text")
    return found


def signals(given: str) -> tuple[str, ...]:
    """Read names of signals with commas between them."""
    names = tuple(dict.fromkeys(each.strip() for each in given.split(",")))
    never = {"SIGKILL", "SIGSTOP", "SIGCHLD"}
    if not all(each in signal.Signals.__members__ and each not in never for each in names):
        raise ValueError("names of signals with commas between them: SIGTERM,SIGUSR1")
    return names


def pairs(given: str) -> dict[str, str]:
    """Read ``KEY=VALUE`` with commas between them."""
    found = {}
    for item in given.split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        if not key or not value:
            raise ValueError("KEY=VALUE with commas between them: join_timeout=300")
        found[key] = value
    return found
