"""What Kubernetes shows of a container that has ended: a few lines of JSON.

The kubelet copies at most 4096 bytes of ``/dev/termination-log`` into the pod's status, as
``containerStatuses[].state.terminated.message``.
"""

import contextlib
import json
import os
from dataclasses import asdict

from rdmatrain.launcher.blame import headline, signal_name
from rdmatrain.launcher.exit_codes import GANG_TIMEOUT, MEANING, may_be_retried
from rdmatrain.launcher.facts import host_name
from rdmatrain.launcher.messages import Fault, Finish

LOG = "/dev/termination-log"
MAX_BYTES = 4096


def text(finish: Finish, run_id: str, host: str) -> str:
    """Return what is told of the end of a job: JSON of at most :data:`MAX_BYTES` bytes.

    Args:
        finish: how it ended.
        run_id: name of the job.
        host: of the launcher that tells it.

    """
    code = finish.exit_code
    told: dict[str, object] = {
        "exit_code": code,
        "meaning": _meaning(finish),
        "retryable": may_be_retried(code),
        "run_id": run_id,
        "host": host,
    }
    if finish.fault is not None:
        told |= {"message": headline(finish.fault), "fault": asdict(finish.fault)}
    data = json.dumps(told)
    if len(data) > MAX_BYTES:  # only a text that came from a worker can be so long
        told.pop("fault", None)
        for name in ("message", "run_id", "host"):  # twelve bytes a character, at worst
            told[name] = str(told.get(name, ""))[: MAX_BYTES // 48]
        data = json.dumps(told)
    return data


def refuse(detail: str, exit_code: int) -> None:
    """Write why nothing was started.

    Args:
        detail: why, and what to do.
        exit_code: of this process.

    """
    fault = Fault(kind="setting", host=host_name(), detail=detail, exit_code=exit_code)
    write(text(Finish(exit_code=exit_code, fault=fault), "", host_name()))


def _meaning(finish: Finish) -> str:
    code = finish.exit_code
    # A worker that ended badly when the job was stopped is told of, and changes nothing.
    if code > 128 and (finish.fault is None or finish.fault.kind == "stop"):
        return MEANING.get(code, f"stopped by {signal_name(code - 128)}")
    if 128 < code < GANG_TIMEOUT:
        return f"a worker was killed by {signal_name(code - 128)}"
    return MEANING.get(code, MEANING[1])


def write(content: str, path: str = LOG) -> None:
    """Write it where the kubelet looks, if it looks: the file is there only in a pod."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)
