"""What a pod says of itself, by key, whoever says it: what the adapters of orchestrators read."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from rdmatrain.discovery.claims.values import MAX_WORD, shown
from rdmatrain.discovery.claims.variables import OWN
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.pod_model import Pod
from rdmatrain.discovery.source import Source


class Facts:
    """Variables, annotations and labels by key, and the names of this host.

    A key with a slash is an annotation or a label; any other is a variable. What is empty, or
    white space, is taken as not there: that is how people unset a variable in a manifest.

    Attributes:
        source: for what is in files.
        names: what this host is called: its names, without domain, and its addresses.
        domain: what follows its name in ``/etc/hosts``, where kubelet writes it; empty if nothing.
        complaints: grows while facts are read.

    """

    def __init__(self, source: Source, pod: Pod, only_own: bool = False) -> None:
        """Gather them.

        Args:
            source: files of the pod.
            pod: what was read of it.
            only_own: leave out the variables of other processes.

        """
        self.source = source
        self.complaints: list[Complaint] = []
        self._keys: dict[str, Evidence] = {}
        self._add_variables(pod, only_own)
        self._add_notes("annotation", pod.annotations)
        self._add_notes("label", pod.labels)
        names = self._own_names()
        lines = list(self._own_lines(names))
        self.names = tuple(dict.fromkeys([*names, *(address for address, _ in lines)]))
        self.domain = max((domain for _, domain in lines), default="")

    def get(self, *keys: str) -> Evidence | None:
        """Return what is said under the first of the keys that is there; None if none is."""
        said = (self._keys.get(key) for key in keys)
        return next((evidence for evidence in said if evidence and evidence.text), None)

    def text(self, *keys: str) -> str:
        """Return the same as text; empty if nothing is said."""
        evidence = self.get(*keys)
        return evidence.text if evidence else ""

    def number(self, *keys: str) -> int | None:
        """Return the same as a number; None if it is none."""
        return parse_number(self.text(*keys))

    def find(self, marker: str) -> Evidence | None:
        """Return what is under a marker, as ``VC_*_HOSTS`` or ``KEY=pattern``; None if nothing."""
        name, _, value = marker.partition("=")
        said = (evidence for _, evidence in self.matching(name))
        return next((each for each in said if fnmatchcase(each.text, value or "?*")), None)

    def matching(self, pattern: str) -> Iterator[tuple[str, Evidence]]:
        """Find what is said under the keys that match, in order of key."""
        if "*" not in pattern:
            return iter([(pattern, self._keys[pattern])] if pattern in self._keys else [])
        return ((key, self._keys[key]) for key in sorted(self._keys) if fnmatchcase(key, pattern))

    def is_here(self, host: str) -> bool:
        """Tell whether a host of that name or address is this one."""
        label = host_label(host.strip("[]"))
        return label in {*self.names, "localhost", "::1"} or label.startswith("127.")

    def complain(self, what: str, source: str, text: str) -> None:
        """Add a complaint, unless it is there already."""
        new = complaint(what, shown(source, MAX_WORD), shown(text, MAX_WORD))
        if new not in self.complaints:
            self.complaints.append(new)

    def _add_variables(self, pod: Pod, only_own: bool) -> None:
        for name, value, source in ((each.name, each.value, each.source) for each in pod.variables):
            if "/" not in name and (source == OWN or not only_own):
                self._add(name, value, f"{name} in {source}")

    def _add_notes(self, kind: str, notes: Iterable[tuple[str, str]]) -> None:
        for key, value in notes:
            if "/" in key:
                self._add(key, value, f"{kind} {key}")

    def _add(self, key: str, value: str, source: str) -> None:
        self._keys.setdefault(key, Evidence(source, value.strip()))

    def _own_names(self) -> list[str]:
        """Return what this host is called, the most trusted name first."""
        kernel = self.source.text("/proc/sys/kernel/hostname") or self.source.text("/etc/hostname")
        said = (self.text("SLURMD_NODENAME"), (kernel or "").strip(), self.text("HOSTNAME"))
        return [host_label(name) for name in said if name]

    def _own_lines(self, names: list[str]) -> Iterator[tuple[str, str]]:
        """Find the addresses of this host in ``/etc/hosts``, each with its domain."""
        for address, *aliases in _table(self.source.text("/etc/hosts") or ""):
            domains = [alias.partition(".")[2] for alias in aliases if host_label(alias) in names]
            if domains and not address.startswith(("127.", "::1")):
                yield address, max(domains)


def _table(text: str) -> Iterator[list[str]]:
    """Split each line at white space, without comments and empty lines."""
    return filter(None, (line.partition("#")[0].split() for line in text.splitlines()))


def parse_number(text: str) -> int | None:
    """Read a count, which has at most nine digits; None if it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def host_label(host: str) -> str:
    """Return a host's name without its domain; an address as it is."""
    return host if re.fullmatch(r"[0-9.]+|.*:.*", host) else host.partition(".")[0]
