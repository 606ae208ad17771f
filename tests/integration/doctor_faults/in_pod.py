# SPDX-License-Identifier: Apache-2.0
"""The doctor in a process whose limits, cgroups and variables are real, and whose devices are not.

The pod comes by standard input; see sandbox.py.
"""

import argparse
import json
import os
import sys

from memory_source import Link, MemorySource

from rdmatrain.discovery.source import Source, Tree
from rdmatrain.discovery.survey import survey
from rdmatrain.doctor.catalog import checks
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.model import Case, Needs
from rdmatrain.doctor.probes import live
from rdmatrain.doctor.report import as_json

# What is real.
OWN = ("/proc/self", f"/proc/{os.getpid()}", "/sys/fs/cgroup", "/proc/sys", "/proc/meminfo")


class Both(Source):
    """This process on a saved pod."""

    def __init__(self, pod: MemorySource, own: Tree) -> None:
        super().__init__()
        self._pod, self._own = pod, own

    def probe(self, name: str):
        answer = self._pod.probe(name)
        return self._own.probe(name) if answer is None else answer

    def _of(self, path: str) -> Source:
        real = any(path == each or path.startswith(f"{each}/") for each in OWN)
        return self._own if real else self._pod

    def _read(self, real: str) -> str:
        return self._of(real)._read(real)

    def _list(self, real: str) -> list[str]:
        return self._of(real)._list(real)

    def _readlink(self, path: str) -> str:
        return self._of(path)._readlink(path)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--transport", default="")
    options.add_argument("--register-mib", type=int, default=512)
    options.add_argument("--ranks", type=int, default=0)
    needs = Needs(**vars(options.parse_args()))
    saved = json.load(sys.stdin)
    files = {
        path: Link(*content) if isinstance(content, list) else content
        for path, content in saved["files"].items()
    }
    source = Both(MemorySource(files, saved["probes"]), Tree(probes=live(needs)))
    print(as_json(list(examine(Case(source, survey(source), needs), checks())), "node"))  # noqa: T201


main()
