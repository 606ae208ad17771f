"""What a simulation is fed with, from a file of ``rdmatrain bench write,pingpong --json``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rdmatrain.bench.contestants import RDMATRAIN
from rdmatrain.bench.records import Record, read_json
from rdmatrain.bench.scale.simulate import Network
from rdmatrain.bench.sizes import size_text
from rdmatrain.errors import SettingError

SMALL_BYTES = 64  # of a write whose time is that of the message
LARGE_BYTES = 64 << 10  # from here on the wire counts


def network_of(file: Path, given: Network) -> tuple[Network, str]:
    """Return the network that was measured, and a text that says how.

    Args:
        file: results of ``write`` and ``pingpong`` over one transport, without a switch: what one
            took would be in the latency, and be added again.
        given: what the file does not say: a switch, and a message where no small ``write`` is.

    Raises:
        SettingError: it cannot be read, or lacks a result.

    """
    pings, writes, transport = _results(file)
    large = [each for each in writes if _nbytes(each) >= LARGE_BYTES]
    if not pings or not large:
        raise SettingError(
            f"--fed {file}: no pingpong, or no write of {size_text(LARGE_BYTES)} or more, of "
            f"{RDMATRAIN}: rdmatrain bench write,pingpong --transport verbs --json FILE makes both"
        )
    ping, widest = min(pings, key=_nbytes), max(large, key=lambda each: float(each["algbw"]))
    message_s = _message_s(writes, given)
    network = replace(
        given,
        gbps=8 * widest["algbw"],
        latency_s=max(ping["seconds_p50"] - message_s, 0.0),
        message_s=message_s,
    )
    sizes = f"write of {size_text(widest['nbytes'])}, pingpong of {size_text(ping['nbytes'])}"
    how = f"measured over {transport} ({sizes}) in {file.name}"
    return network, f"{how}, taken to be without a switch"


def _results(file: Path) -> tuple[list[Record], list[Record], str]:
    """Return what the file has of pingpong, of write, and over which transport."""
    records = [each for each in read_json(file) if each["backend"] == RDMATRAIN]
    pings, writes = ([each for each in records if each["op"] == op] for op in ("pingpong", "write"))
    transports = sorted({each["transport"] for each in pings + writes})
    if len(transports) > 1:
        raise SettingError(f"--fed {file}: results over {', '.join(transports)}: give those of one")
    return pings, writes, "".join(transports)


def _message_s(writes: Sequence[Record], given: Network) -> float:
    """Return the seconds of each of many small writes."""
    smallest = min(writes, key=_nbytes)
    return float(smallest["seconds_p50"]) if _nbytes(smallest) <= SMALL_BYTES else given.message_s


def _nbytes(record: Record) -> int:
    return int(record["nbytes"])
