"""Variables that say which GPUs are visible, and the files that say so for NVIDIA's runtime.

``NVIDIA_VISIBLE_DEVICES`` and ``AMD_VISIBLE_DEVICES`` told the container's runtime which GPUs to
add: they are claims, unless they say ``all``, ``void``, ``none`` or nothing. Images have ``all``,
and CDI writes ``void``, whatever was allocated.

``CUDA_VISIBLE_DEVICES``, ``HIP_VISIBLE_DEVICES`` and ``ROCR_VISIBLE_DEVICES`` tell a library which
of these to hide from one process: they are restrictions. ``GPU_DEVICE_ORDINAL`` is one for OpenCL
only; Slurm sets it beside the one of ROCR, with the same numbers.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from rdmatrain.discovery.claims import Finding
from rdmatrain.discovery.claims.values import origin, shown, unreadable
from rdmatrain.discovery.claims.variables import OWN
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.pci import parse_cpus
from rdmatrain.discovery.pod_model import Claim, Restriction, Trust, Variable
from rdmatrain.discovery.source import Source

RUNTIME = ("NVIDIA_VISIBLE_DEVICES", "AMD_VISIBLE_DEVICES")
# The device plugin mounts one file for each device here, named for it.
MOUNTS = "/var/run/nvidia-container-devices"
# cdi/nvidia.com/gpu/0 and MIG-GPU-<uuid>/1/0 are the deepest names.
MOUNTS_DEPTH = 4
ROCR, HIP, CUDA = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"

_NONE = {"", "all", "none", "void"}
# A number, AMD's range, or the number of a GPU and of its slice.
_INDEX = re.compile(r"(?P<gpus>[0-9-]{1,9})(?::[0-9]{1,4})?", re.ASCII)
# Others are gds, mofed, imex-channel...
_KINDS = {"gpu", "mig"}
_UUID = re.compile(r"(?:GPU-|MIG-|0x)[0-9A-Za-z/-]+", re.ASCII)
_CDI = re.compile(r"[\w.-]+/(?P<kind>[\w.-]+)=(?P<device>[\w.:/-]+)", re.ASCII)
# What people and Slurm write to hide all.
_HIDDEN = {"", "-1", "NoDevFiles", "none", "void"}


def visible(source: Source, variables: Sequence[Variable]) -> Iterator[Finding]:
    """Yield claims from what runtimes were told, and restrictions in the order they apply."""
    by_name = {each.name: each for each in variables}
    for name in RUNTIME:
        if name in by_name:
            yield from _told(by_name[name])
    yield from _mounts(source, [by_name[name] for name in RUNTIME if name in by_name])
    yield from _restrictions({name: each for name, each in by_name.items() if each.source == OWN})


def _mounts(source: Source, told: Sequence[Variable]) -> Iterator[Claim | Complaint]:
    paths = list(_leaves(source, MOUNTS, MOUNTS_DEPTH))
    for path in paths:
        yield from _claims(_mounted(path), MOUNTS)
    for variable in () if paths else told:
        if any(map(_is_folder, _parts(variable))):
            text = f"names {MOUNTS}, which is empty: nothing says which GPUs were allocated"
            yield complaint("mounts-empty", origin(variable), text)


def _told(variable: Variable) -> Iterator[Claim | Complaint]:
    for text in _parts(variable):
        # Its devices are the files there.
        if not _is_folder(text):
            yield from _claims(text, origin(variable))


def _parts(variable: Variable) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in variable.value.split(",")))


def _is_folder(text: str) -> bool:
    return text.rstrip("/") == MOUNTS


def _claims(text: str, source: str) -> Iterator[Claim | Complaint]:
    evidence = Evidence(source, shown(text))
    cdi = _CDI.fullmatch(text)
    device = cdi["device"] if cdi else text
    if device in _NONE or (cdi and cdi["kind"] not in _KINDS):
        return
    index = _INDEX.fullmatch(device)
    numbers = parse_cpus(index["gpus"]) if index else ()
    if _UUID.fullmatch(device):
        yield Claim(evidence, Trust.VARIABLE, "gpu", uuid=device)
    elif not numbers:
        yield unreadable(source, text, "names no GPU")
    for number in numbers:
        yield Claim(evidence, Trust.VARIABLE, "gpu", index=number)


def _mounted(path: str) -> str:
    """Return the device of a mount: ``cdi/nvidia.com/gpu/0`` is ``nvidia.com/gpu=0``."""
    what, _, rest = path.partition("/")
    if what == "imex":
        return ""
    if what != "cdi":
        return path
    vendor, _, device = rest.partition("/")
    return f"{vendor}/{device}" if "=" in device else f"{vendor}/{device.replace('/', '=', 1)}"


def _leaves(source: Source, folder: str, depth: int) -> Iterator[str]:
    for name in source.names(folder):
        below = list(_leaves(source, posixpath.join(folder, name), depth - 1)) if depth > 1 else []
        yield from (posixpath.join(name, path) for path in below) if below else (name,)


def _restrictions(own: Mapping[str, Variable]) -> Iterator[Restriction | Complaint]:
    if ROCR in own:
        yield from _restriction(own[ROCR], "amd")
    # Empty hides nothing from HIP, which then reads CUDA's.
    if HIP in own and own[HIP].value:
        yield from _restriction(own[HIP], "amd")
    elif CUDA in own and own[CUDA].value:
        # What is wrong with it is said below, for those whose it is.
        findings = _restriction(own[CUDA], "amd")
        yield from (each for each in findings if isinstance(each, Restriction))
    if CUDA in own:
        yield from _restriction(own[CUDA], "nvidia")


def _restriction(variable: Variable, vendor: str) -> Iterator[Restriction | Complaint]:
    """Yield what a library makes of a list: it ends where something is no device.

    CUDA takes devices of one kind only, and none of a list that has one twice; that ends the list
    for others.
    """
    devices: list[int | str] = []
    read, kind = (_cuda_device, _kind) if vendor == "nvidia" else (_amd_device, lambda _: "")
    for text in (part.strip() for part in variable.value.split(",")):
        device = read(text)
        if device is None or kind(device) != kind(devices[0] if devices else device):
            if text not in _HIDDEN:
                yield unreadable(origin(variable), text, "ends at what is no device")
            break
        if device in devices:
            yield complaint("listed-twice", origin(variable), f"lists {shown(text)} twice")
            devices = [] if vendor == "nvidia" else devices
            break
        devices.append(device)
    yield Restriction(Evidence(origin(variable), shown(variable.value)), vendor, tuple(devices))


def _cuda_device(text: str) -> int | str | None:
    # As strtoul has it: what follows the number is left unread.
    ordinal = re.match(r"\+?([0-9]{1,4})", text, re.ASCII)
    if ordinal:
        return int(ordinal[1])
    return text if _UUID.fullmatch(text) else None


def _amd_device(text: str) -> int | str | None:
    if re.fullmatch("[0-9]{1,4}", text, re.ASCII):
        return int(text)
    return text if _UUID.fullmatch(text) else None


def _kind(device: int | str) -> str:
    return device[:4] if isinstance(device, str) else ""
