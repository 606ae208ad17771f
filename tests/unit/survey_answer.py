# SPDX-License-Identifier: Apache-2.0
"""What a survey decides, to compare those of one pod."""

from collections import Counter
from typing import Any

from rdmatrain.discovery.model import Gid
from rdmatrain.discovery.survey import Survey


def nameless(gid: Gid | None) -> tuple[Any, ...]:
    return (gid.index, gid.kind, ":" in gid.address) if gid else ()


def answer(found: Survey) -> dict[str, Any]:
    """What a survey decides, without what is anybody's name or address."""
    return {
        "gpus": [each.gpu.uuid for each in found.allocation.gpus],
        "nics": [
            (each.nic.name, each.nic.pci, each.port, nameless(each.gid))
            for each in found.allocation.nics
        ],
        "others": [nic.name for nic, _ in found.allocation.others],
        "pairs": [
            (pair.gpu.uuid, pair.nic.name, [nic.name for nic in pair.more], pair.distance)
            for pair in found.pairs
        ],
        "bindings": [
            (each.local_rank, [nic.name for nic in each.nics], each.gid_indexes, each.cpus)
            for each in found.bindings
        ],
        "variables": {
            each.name
            for choices in (found.environment.common, *found.environment.ranks.values())
            for each in choices
            if each.value
        }
        if found.environment
        else set(),
        "complaints": Counter(each.id for each in found.complaints),
    }
