"""What programs, metrics and logs are told of how a rank is joined to the others.

Which ports and GIDs it has is known before ranks meet; which GIDs a queue pair uses, and with which
MTU, the two ranks agree upon when they join. The core says so from then on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rdmatrain.comm.pairs import Pair
from rdmatrain.comm.rdma import Rail, rail_text
from rdmatrain.discovery.model import Gid
from rdmatrain.discovery.ports import address_text

logger = logging.getLogger(__name__)

# (number of the communicator, peer) of each pair whose GIDs were logged.
_told: set[tuple[int, int]] = set()


def facts_of(pairs: Sequence[Pair], rails: Sequence[Rail], number: int) -> dict[str, Any]:
    """Return what is known before ranks meet, as json can carry it.

    Args:
        pairs: by rank of the peer.
        rails: the ports of the rank whose pairs they are.
        number: of its communicator, which no other of this process has.

    """
    return {
        "number": number,
        "pairs": [
            {
                "rank": peer,
                "transport": pair.transport,
                "why": pair.why,
                "fell_back": pair.fell_back,
                "num_rails": pair.num_rails,
            }
            for peer, pair in enumerate(pairs)
        ],
        "rails": [
            {
                "port": str(rail.port),
                "gids": [(gid.index, gid.address, gid.kind) for gid in rail.gids],
                "mtu": rail.mtu,
            }
            for rail in rails
        ],
    }


def peers_of(
    facts: Mapping[str, Any], stats: Callable[[int], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what :func:`rdmatrain.get_stats` tells of each other rank; logs as log_rechoice does.

    Args:
        facts: as facts_of made them.
        stats: what the core has counted of a rank, and over which rails it goes.

    """
    peers = []
    for pair in facts["pairs"]:
        if pair["transport"] == "self":
            continue
        counted = dict(stats(pair["rank"]))
        joined = counted.pop("rails")
        log_rechoice(facts, pair["rank"], joined)
        used = facts["rails"][: pair["num_rails"]]
        ways = [_way(rail, way) for rail, way in zip_longest(used, joined)]
        peers.append(
            {name: pair[name] for name in ("rank", "transport", "why", "fell_back")}
            | {
                "device": used[0]["port"] if used else None,
                "gid_index": ways[0][0].index if ways else None,
                "rails": [
                    rail_text(rail["port"], *way) for rail, way in zip(used, ways, strict=True)
                ],
            }
            | counted
        )
    return peers


def log_rechoice(facts: Mapping[str, Any], peer: int, joined: Sequence[Mapping[str, Any]]) -> None:
    """Log, once for a pair of ranks, that it uses other GIDs than those that were tried first."""
    others = [
        f"{rail['port']} gid {way['gid_index']} {address_text(way['gid'])} to its "
        f"{address_text(way['peer_gid'])}, not gid {first} {address}"
        for rail, way in zip(facts["rails"], joined, strict=False)
        for first, address, _ in rail["gids"][:1]
        if way["gid_index"] != first
    ]
    if not others or (facts["number"], peer) in _told:
        return
    _told.add((facts["number"], peer))
    rank = next(pair["rank"] for pair in facts["pairs"] if pair["transport"] == "self")
    logger.info(
        "rank %d of %d: to rank %d verbs goes over %s: the two use the first pair of GIDs that "
        "works from both",
        rank,
        len(facts["pairs"]),
        peer,
        "; ".join(others),
    )


def log_rechoices(facts: Mapping[str, Any], stats: Sequence[Mapping[str, Any]]) -> None:
    """Do that for all pairs of a rank; ``stats`` is what the core says of each peer."""
    for peer, each in enumerate(stats):
        log_rechoice(facts, peer, each["rails"])


def _way(rail: Mapping[str, Any], joined: Mapping[str, Any] | None) -> tuple[Gid, int]:
    """Return GID and MTU: what the two have agreed upon, or what is tried first."""
    gids = [Gid(*each) for each in rail["gids"]]
    if joined is None:
        return gids[0], rail["mtu"]
    kind = next(gid.kind for gid in gids if gid.index == joined["gid_index"])
    return Gid(joined["gid_index"], address_text(joined["gid"]), kind), joined["mtu"]
