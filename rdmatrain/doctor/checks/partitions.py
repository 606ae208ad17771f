"""Partition keys of a port of InfiniBand."""

import re

from rdmatrain.discovery.model import Port
from rdmatrain.discovery.sysfs import attribute
from rdmatrain.doctor.checks.rdma_case import folder
from rdmatrain.doctor.model import Case, Finding, failed, passed, skipped, warned

# A partition key with this bit is of a full member; limited ones do not reach each other.
FULL_MEMBER = 0x8000
PARTITIONS = "/etc/opensm/partitions.conf, on the host that manages the subnet"


def judge_pkey(case: Case, port: Port, index: int) -> Finding:
    """Judge the key that queue pairs use."""
    text = attribute(case.source, f"{folder(port)}/pkeys/{index}")
    if not re.fullmatch("0x[0-9a-f]{1,4}", text):
        return skipped(f"{port}: the key at index {index} cannot be read")
    value = int(text, 16)
    where = f"{port}: the key at index {index} is {text}"
    better = _full_member(case, port)
    fix = (
        f"export RDMATRAIN_PKEY={better} NCCL_IB_PKEY={better}"
        if better is not None
        else _make_full(case, port, value)
    )
    if not value & (FULL_MEMBER - 1):
        return failed(f"{where}: of no partition", fix)
    if not value & FULL_MEMBER:
        return warned(f"{where}: a limited member, which reaches full ones only", fix)
    return passed(where)


def _make_full(case: Case, port: Port, key: int) -> str:
    """Return how a port becomes a full member: by its GUID, the second half of its first GID."""
    guid = "".join(attribute(case.source, f"{folder(port)}/gids/0").split(":")[4:])
    partition = key & (FULL_MEMBER - 1) or FULL_MEMBER - 1
    return f"echo 'full=0x{partition:x}: 0x{guid or 'GUID'}=full;' >> {PARTITIONS}"


def _full_member(case: Case, port: Port) -> int | None:
    """Return the index of a key of a full member."""
    for index in range(8):
        text = attribute(case.source, f"{folder(port)}/pkeys/{index}")
        if re.fullmatch("0x[89a-f][0-9a-f]{3}", text):
            return index
    return None
