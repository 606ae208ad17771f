"""What can go wrong, by what the caller can do about it.

A failed collective surfaces in PyTorch code as ``torch.distributed.DistBackendError``; the classes
here are raised by everything that works without torch: settings, the launcher, ``rdmatrain._core``.
"""

from collections.abc import Mapping


class RdmatrainError(Exception):
    """Base of every error that rdmatrain raises on purpose."""


class SettingError(RdmatrainError, ValueError):
    """A setting is wrong: fix it and start again. The text names the setting and the remedy."""


class BootstrapError(RdmatrainError, RuntimeError):
    """The group could not form: ranks disagree, or a peer did not come in time."""


class CommError(RdmatrainError, RuntimeError):
    """The communicator is damaged: destroy the group and restart the job.

    Attributes:
        status: name of the C status (``rdt_status_name``), for example ``"PEER_LOST"``.
    """

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class CommTimeoutError(CommError, TimeoutError):
    """An operation did not finish before its deadline."""


class CheckpointError(RdmatrainError, RuntimeError):
    """A checkpoint could not be saved or loaded: raised on all ranks alike, so all may go on.

    Attributes:
        failures: what went wrong, by rank, with path and errno where there are any.
    """

    def __init__(self, message: str, failures: Mapping[int, str] | None = None) -> None:
        self.failures = dict(failures or {})
        ranks: dict[str, list[int]] = {}
        for rank, text in sorted(self.failures.items()):
            ranks.setdefault(text, []).append(rank)
        told = [
            f"rank {first}{f' and {len(more)} more' if more else ''}: {text}"
            for text, (first, *more) in ranks.items()
        ]
        super().__init__(f"{message}: {'; '.join(told)}" if told else message)
