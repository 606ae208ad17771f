"""The environment of this process, and what a shell between it and the container's start dropped.

dash and busybox drop variables whose names have hyphens, as those of the SR-IOV device plugin have
(``PCIDEVICE_NVIDIA_COM_RDMA-VF``), and what slurmd or sshd starts gets none of the pod's variables.
The kernel still has them: ``/proc/N/environ`` is the environment that a process was started with.
"""

import re
from collections.abc import Iterator, Mapping

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod_model import Variable
from rdmatrain.discovery.source import Source

# What this process itself has; others are named by their file.
OWN = "environment"
PLUGIN = "PCIDEVICE_"

_OWN_FILE = "/proc/self/environ"
_PARENT = re.compile(r"^PPid:\s*([1-9][0-9]*)$", re.MULTILINE | re.ASCII)


def read_variables(source: Source) -> tuple[tuple[Variable, ...], tuple[Complaint, ...]]:
    """Read the environments of this process, its parent and process 1.

    Returns:
        Each name once, from the nearest process that has it, in the order of names; and
        complaints.

    """
    found: dict[str, dict[str, str]] = {}
    for path in _files(source):
        text = source.text(path)
        if text is not None:
            found[OWN if path == _OWN_FILE else path] = _parse(text)
    nearest: dict[str, Variable] = {}
    for place, variables in found.items():
        for name, value in variables.items():
            nearest.setdefault(name, Variable(name, value, place))
    complaints = [*_differing(found, nearest), *_lost(found, nearest)]
    if not found:
        why = source.failure(_OWN_FILE)
        complaints.append(complaint("unreadable", _OWN_FILE, f"cannot be read: {why}"))
    return tuple(nearest[name] for name in sorted(nearest)), tuple(complaints)


def _files(source: Source) -> list[str]:
    parent = _PARENT.search(source.text("/proc/self/status") or "")
    numbers = dict.fromkeys(([parent[1]] if parent else []) + ["1"])
    return [_OWN_FILE, *(f"/proc/{number}/environ" for number in numbers)]


def _parse(text: str) -> dict[str, str]:
    """Read ``NAME=value`` entries that end in a zero byte; what is none is left out.

    Nobody is told of those: processes that change their title write over their environment.
    """
    found: dict[str, str] = {}
    for entry in text.split("\0"):
        name, equals, value = entry.partition("=")
        if name and equals:
            found.setdefault(name, value)
    return found


def _differing(
    found: Mapping[str, Mapping[str, str]], nearest: Mapping[str, Variable]
) -> Iterator[Complaint]:
    for place, variables in found.items():
        for name in sorted(variables):
            used = nearest[name]
            if name.startswith(PLUGIN) and variables[name] != used.value:
                yield complaint(
                    "env-differs",
                    f"{shown(name)} in {used.source}",
                    f"is '{shown(used.value)}', which counts, but '{shown(variables[name])}' "
                    f"in {place}: it was changed after the container started",
                )


def _lost(
    found: Mapping[str, Mapping[str, str]], nearest: Mapping[str, Variable]
) -> Iterator[Complaint]:
    for place in found if OWN in found else ():
        lost = sorted(
            name
            for name, variable in nearest.items()
            if name.startswith(PLUGIN) and "-" in name and variable.source == place != OWN
        )
        if lost:
            yield complaint(
                "env-lost-by-shell",
                place,
                f"has {shown(', '.join(lost))}, which this process was not given: sh (dash, "
                'busybox) drops such names. Start it without a shell: command: ["rdmatrain", ...]',
            )
