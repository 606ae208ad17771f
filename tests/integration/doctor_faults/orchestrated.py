# SPDX-License-Identifier: Apache-2.0
"""Pods whose place in their job cannot be known: tests/fixtures/orchestrators."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import doctor_pods

from doctor_faults.fault import Fault, look

FOLDER = Path(__file__).parents[2] / "fixtures" / "orchestrators"
GOLDEN: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
CAUSES = {
    "indexed_job_too_few": "identity",
    "lws_other_label": "identity",
    "sbatch_script": "identity",
    "trainer_mixed_ranks": "identity",
    "volcano_unlisted": "identity",
}


def files_of(golden: Mapping[str, Any]) -> dict[str, str]:
    """Return what a pod of one sees."""

    def volume(name: str) -> str:
        return "\n".join(
            f"{key}={json.dumps(value)}" for key, value in golden.get(name, {}).items()
        )

    return {
        **golden.get("files", {}),
        "/proc/self/environ": doctor_pods.environ(golden.get("env", {})),
        "/proc/1/environ": doctor_pods.environ(golden.get("env_of_process_1", {})),
        "/etc/podinfo/annotations": volume("annotations"),
        "/etc/podinfo/labels": volume("labels"),
    }


def _asked(name: str) -> Fault:
    return Fault(name, CAUSES[name], lambda: look(doctor_pods.bare(files_of(GOLDEN[name]))))


FAULTS = [_asked(name) for name in CAUSES]
