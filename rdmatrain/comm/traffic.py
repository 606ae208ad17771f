"""What has gone over the groups of this process, for whoever counts: asked, never told."""

import json
from dataclasses import dataclass
from typing import Any

from rdmatrain.comm import recorder
from rdmatrain.comm.facts import peers_of
from rdmatrain.comm.trace import Group


@dataclass(frozen=True)
class Traffic:
    """A group that is open.

    Attributes:
        number: of its communicator: ``_core.Comm.number()``.
        group: its ranks.
        peers: of each other rank what :func:`rdmatrain.get_stats` tells.

    """

    number: int
    group: Group
    peers: tuple[dict[str, Any], ...]


def traffic() -> list[Traffic]:
    """Return the open groups of this process; those that are being closed are left out."""
    found = []
    for number, group in recorder.groups().items():
        try:
            peers = _peers_of(group)
        except (RuntimeError, AttributeError):  # destroyed, or a torch whose interface has changed
            continue
        if peers is not None:
            found.append(Traffic(number, group, peers))
    return found


def _peers_of(group: Group) -> tuple[dict[str, Any], ...] | None:
    import torch  # noqa: PLC0415 - it is loaded, if there is a group
    from torch._C import _distributed_c10d as c10d  # noqa: PLC0415

    from rdmatrain.comm.backend import load_extension  # noqa: PLC0415

    found = c10d._resolve_process_group(group.name)
    for device in found._device_types:
        backend = found._get_backend(torch.device(device))
        backend = getattr(backend, "wrapped_pg", backend)  # under TORCH_DISTRIBUTED_DEBUG=DETAIL
        if isinstance(backend, load_extension().Backend):
            return tuple(peers_of(json.loads(backend.note), backend.stats))
    return None
