"""Where the files of the workers' output lie: torchrun's layout.

``<log_dir>/<run_id>_<random>/attempt_<restart>/<local_rank>/stdout.log``, ``stderr.log``; beside
the local ranks ``filtered_stdout.log`` and ``filtered_stderr.log``.
"""

import os
import shutil
import tempfile
from pathlib import Path

from rdmatrain.errors import SettingError


class LogFolder:
    """The folder of one run of the job; made when this object is.

    Args:
        base: ``--log-dir``; empty for a new folder in the system's temporary folder.
        run_id: name of the job.

    Raises:
        SettingError: the folder cannot be made; names it and the cause.

    """

    def __init__(self, base: str, run_id: str) -> None:
        prefix = run_id.replace("/", "_").replace("\0", "_") or "none"
        try:
            if base:
                Path(base).mkdir(parents=True, exist_ok=True)
            base = base or tempfile.mkdtemp(prefix="rdmatrain_")
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}_", dir=Path(base).absolute()))
        except OSError as error:
            raise SettingError(
                f"--log-dir {base or tempfile.gettempdir()}: {error.strerror}: "
                "give a folder that can be written, or none"
            ) from error
        self._attempt = self.path

    def begin(self, restart: int, nproc: int) -> None:
        """Make the folders of a round, empty.

        Raises:
            OSError: they cannot be made.

        """
        self._attempt = self.path / f"attempt_{restart}"
        shutil.rmtree(self._attempt, ignore_errors=True)
        for local_rank in range(nproc):
            self.of_worker(local_rank).mkdir(parents=True)

    def of_worker(self, local_rank: int) -> Path:
        """Return the folder of a worker's files."""
        return self._attempt / str(local_rank)

    def filtered(self, stream: str) -> Path:
        """Return where filtered lines go: of ``stdout`` or ``stderr``."""
        return self._attempt / f"filtered_{stream}.log"


def create(path: Path) -> int:
    """Return a descriptor of a new, empty file that several processes may write to.

    Raises:
        OSError: it cannot be made.

    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
