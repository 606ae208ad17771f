"""Annotations and labels of the pod, from a downward API volume.

The kubelet writes a line for each, ``key="value"``, with the escapes of Go's ``strconv.Quote``,
and refreshes it every minute or so. Nothing tells where a volume is mounted: the usual places are
tried.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator

from rdmatrain.discovery.claims.values import unreadable
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod_model import Variable
from rdmatrain.discovery.source import Source

FOLDERS = (
    "/etc/podinfo",
    "/etc/pod-info",
    "/etc/podnetinfo",  # of the network resources injector
    "/etc/downward",
    "/etc/downwardapi",
    "/podinfo",
    "/pod-info",
)
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
# A file may also hold the value of one annotation.
ALONE = {"network-status": NETWORK_STATUS, "network_status": NETWORK_STATUS, "networks": NETWORKS}

_LINE = re.compile(r'(?P<key>[^\s="]+)="(?P<value>(?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(?:(x)([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
_LETTERS = dict(zip("abfnrtv\\\"'", "\a\b\f\n\r\t\v\\\"'", strict=True))


def read_annotations(source: Source) -> Iterator[Variable | Complaint]:
    """Yield annotations; for one key, the first counts."""
    yield from _first([*_volumes(source, "annotations"), *_alone(source)])


def read_labels(source: Source) -> Iterator[Variable | Complaint]:
    """Yield labels; for one key, the first counts."""
    yield from _first(_volumes(source, "labels"))


def _first(findings: Iterable[Variable | Complaint]) -> Iterator[Variable | Complaint]:
    keys = set()
    for finding in findings:
        if isinstance(finding, Complaint):
            yield finding
        elif finding.name not in keys:
            keys.add(finding.name)
            yield finding


def _volumes(source: Source, name: str) -> Iterator[Variable | Complaint]:
    for folder in FOLDERS:
        path = posixpath.join(folder, name)
        yield from _parse(source.text(path) or "", path)


def _alone(source: Source) -> Iterator[Variable]:
    for folder in FOLDERS:
        for name, key in ALONE.items():
            path = posixpath.join(folder, name)
            text = source.text(path)
            if text is not None:
                yield Variable(key, text, path)


def _parse(text: str, path: str) -> Iterator[Variable | Complaint]:
    # Not splitlines: Go leaves some of its ends of lines as they are.
    for line in filter(None, text.split("\n")):
        match = _LINE.fullmatch(line)
        value = _unquote(match["value"]) if match else None
        if match and value is not None:
            yield Variable(match["key"], value, path)
        else:
            yield unreadable(path, line, 'has a line that is not key="value"')


def _unquote(text: str) -> str | None:
    try:
        return _ESCAPE.sub(_character, text)
    except (ValueError, OverflowError, KeyError):
        return None


def _character(match: re.Match[str]) -> str:
    is_byte, byte, short, long, letter = match.groups()
    if letter:
        return _LETTERS[letter]
    code = int(byte or short or long, 16)
    # A byte that is not UTF-8, as os.fsdecode gives it.
    return chr(code + 0xDC00 if is_byte and code > 0x7F else code)
