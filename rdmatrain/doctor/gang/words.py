"""How what is said of a gang is put into words: who, which way, and how many of them."""

from collections.abc import Iterable, Sequence

from rdmatrain.doctor.gang.model import Gathering, Meeting

MAX_NAMED = 4


def set_of(values: Iterable[object]) -> str:
    """Write values in a line, each once."""
    return ", ".join(sorted({str(value) for value in values}))


def listed(texts: Sequence[str], most: int = MAX_NAMED) -> str:
    """Write the first of some texts, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def host_in(name: str) -> str:
    """Return the host of what :class:`Pod` is called in texts."""
    return name.partition(" ")[0]


def way_of(seen: Gathering, rank: int, each: Meeting) -> str:
    """Write from which rank to which."""
    return f"{seen.name(rank)} to {seen.name(each.peer)}"


def between_hosts(
    seen: Gathering, meetings: Sequence[tuple[int, Meeting]]
) -> list[tuple[int, Meeting]]:
    """Return the meetings of pods that cannot share memory."""
    return [
        (rank, each) for rank, each in meetings if seen.host_of(rank) != seen.host_of(each.peer)
    ]
