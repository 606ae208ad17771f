"""Which of a pod's NICs a library uses, by its own list of devices."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from rdmatrain.config import DeviceList
from rdmatrain.discovery.nccl import NameList
from rdmatrain.discovery.pod_model import Allocation, GrantedNic
from rdmatrain.errors import SettingError

# Tells whether a list, as it stands in its variable, has this port of this device.
Allows = Callable[[str, str, int], bool]

# A name that all libraries' lists can hold; NCCL has room for 63 characters.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}", re.ASCII)


def nccl_allows(value: str, device: str, port: int) -> bool:
    """Tell whether ``NCCL_IB_HCA`` has a port."""
    return NameList.parse(value).allows(device, port)


def ucx_allows(value: str, device: str, port: int) -> bool:
    """Tell whether ``UCX_NET_DEVICES`` has a port: a list of patterns, or ``^`` and one."""
    items = value.removeprefix("^").split(",")
    named = any(item == "all" or fnmatchcase(f"{device}:{port}", item) for item in items)
    return named != value.startswith("^")


def rdmatrain_allows(value: str, device: str, port: int) -> bool:
    """Tell whether ``RDMATRAIN_DEVICES`` has a port; a list that cannot be read has none."""
    try:
        return DeviceList.parse(value, "RDMATRAIN_DEVICES").allows(device, port)
    except SettingError:
        return False


# Variables with a list, how each is read, and the variable that sets one GID index for all of it.
LISTS: tuple[tuple[str, Allows, str], ...] = (
    ("NCCL_IB_HCA", nccl_allows, "NCCL_IB_GID_INDEX"),
    ("RDMATRAIN_DEVICES", rdmatrain_allows, "RDMATRAIN_GID_INDEX"),
    ("UCX_NET_DEVICES", ucx_allows, "UCX_IB_GID_INDEX"),
)


def usable_nics(allocation: Allocation) -> list[GrantedNic]:
    """Return the pod's NICs that verbs can use: fit ones, or all if none is fit."""
    able = [each for each in _with_verbs(allocation) if _NAME.fullmatch(each.nic.name)]
    return [each for each in able if not each.nic.unfit] or able


def used_nics(allocation: Allocation, value: str, allows: Allows) -> list[GrantedNic]:
    """Return the pod's NICs that a list has; those that can be used if it is empty."""
    if not value:
        return usable_nics(allocation)
    able = _with_verbs(allocation)
    return [each for each in able if allows(value, each.nic.name, each.port)]


def _with_verbs(allocation: Allocation) -> list[GrantedNic]:
    return [each for each in allocation.nics if each.port and not each.nic.efa]
