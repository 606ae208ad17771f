# SPDX-License-Identifier: Apache-2.0
"""What a fix may look like: a line for a shell, a patch of a manifest, or an option."""

import re

import yaml

from rdmatrain.launcher.options import BY_FIELD

COMMANDS = {
    "apt-get", "chmod", "chronyc", "devlink", "dmesg", "docker", "du", "echo", "fio", "getent",
    "ip", "kill", "kubectl", "ls", "lspci", "mkdir", "mlnx_qos", "mlxlink", "modprobe", "pip",
    "quota", "rdmatrain", "sed", "setpci", "srun", "sudo", "sysctl", "systemctl", "taskset",
    "timeout", "ulimit",
}  # fmt: skip
# Of pods, networks, the device plugin's pools and the kubelet.
FIELDS = {
    "command", "ipam", "kind", "memoryManagerPolicy", "metadata", "plugins", "podPidsLimit",
    "resources", "securityContext", "selectors", "spec", "topologyManagerPolicy",
    "topologyManagerScope", "volumeMounts", "volumes",
}  # fmt: skip
OPTIONS = {f"--{name.replace('_', '-')}" for name in BY_FIELD}
# What is set elsewhere than in a shell: an image's first line, the kernel's command line, and a
# variable that may be of a manifest, a script or an image.
OTHERS = re.compile(r"FROM \S+:\S|iommu=pt |RDMATRAIN_[A-Z_]+=\S|rename \S+ to \S+$")
VARIABLES = re.compile(r"export \w+=\S|unset [A-Z_][A-Z0-9_]*( [A-Z_][A-Z0-9_]*)*($|[,:;])")


def is_fix(text: str) -> bool:
    """Tell whether somebody who reads it knows what to type, and where."""
    first = text.split(" ")[0]
    begins = first in COMMANDS or first.partition("=")[0] in OPTIONS
    return begins or bool(OTHERS.match(text) or VARIABLES.match(text)) or _is_patch(text)


def _is_patch(text: str) -> bool:
    """Tell whether it begins with fields of a manifest; words may follow."""
    ends = [match.end() for match in re.finditer(r"[\w}\])\"](?=[,;: ]|$)", text)]
    return any(_fields(text[:end]) <= FIELDS for end in ends)


def _fields(text: str) -> set[object]:
    try:
        found = yaml.safe_load(f"{{{text}}}")
    except yaml.YAMLError:
        return {None}
    whole = isinstance(found, dict) and None not in found.values()
    return set(found) if whole and not re.search("<[^>]+>", text) else {None}
