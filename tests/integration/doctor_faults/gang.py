# SPDX-License-Identifier: Apache-2.0
"""Pods of a gang that do not fit together: two doctors on this host, which meet as a job does."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from integration_jobs import finish, free_port, start

from doctor_faults.fault import Answer, Fault
from doctor_faults.sandbox import DOCTOR, JOB, LIMIT_S

# Read by Python before all else.
BEHIND = "import time\nnow = time.time\ntime.time = lambda: now() - {}\n"


def _gang(folder: Path) -> list[Answer]:
    """Ask a gang of two, whose second pod has the modules of a folder; node 0 tells.

    Both are one host, so that only what is asked of the gang is as in pods.
    """
    job = {**JOB, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    pods = [
        start([*DOCTOR, "--gang"], {**job, "PET_NODE_RANK": str(rank), **own})
        for rank, own in enumerate(({}, {"PYTHONPATH": str(folder)}))
    ]
    text = finish(pods, LIMIT_S)[0].out
    # What the launcher says goes before and after it.
    said = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return [
        Answer(each["id"], each["verdict"], each["evidence"])
        for each in said["checks"]
        if each["id"].startswith("gang-")
    ]


def _late() -> list[Answer]:
    with TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(BEHIND.format(8))
        return _gang(Path(folder))


FAULTS = [Fault("a pod whose clock is 8 s behind node 0's", "gang-clock", _late)]
