"""How long things may take: options, ``--rdzv-conf`` and torchrun's variables put together."""

from collections.abc import Mapping

from rdmatrain.errors import SettingError
from rdmatrain.launcher import values
from rdmatrain.launcher.job import Gang, Limits
from rdmatrain.launcher.ledger import Known, Ledger, known
from rdmatrain.launcher.options import VARIABLE, Choice
from rdmatrain.spelling import closest

# Keys of --rdzv-conf: what they set, and those of torchrun's backends that mean nothing here.
_USED = ("join_timeout", "timeout", "last_call_timeout")
_KEEP_ALIVE = {"keep_alive_interval": 5.0, "keep_alive_max_attempt": 3.0}  # torchrun's defaults
_UNUSED = (
    "close_timeout", "heartbeat_timeout", "read_timeout", "is_host", "store_type", "rank",
    "protocol", "ssl_cert", "ssl_cert_key", "ca_cert", "cacert", "cert", "key", "etcd_prefix",
    "use_libuv",
)  # fmt: skip
_SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


def find_limits(ledger: Ledger, environ: Mapping[str, str]) -> Limits:
    """Return the limits of this node's part of a job.

    Args:
        ledger: has the options.
        environ: has torchrun's variable for ``--shutdown-timeout``.

    Raises:
        SettingError: that variable is no number.

    """
    shutdown, grace = ledger.choices["shutdown_timeout"], ledger.choices["grace"]
    inherited = environ.get(_SHUTDOWN, "")
    if not shutdown.level and inherited.strip():
        shutdown = Choice(_seconds(f"{_SHUTDOWN}=", inherited), _SHUTDOWN, VARIABLE)
    # torchrun has one limit for both.
    grace = grace if grace.level else shutdown
    return Limits(
        max_restarts=ledger.take("max_restarts", Limits.max_restarts),
        shutdown_s=ledger.note("shutdown_timeout", known(shutdown, Limits.shutdown_s)),
        grace_s=ledger.note("grace", known(grace, Limits.grace_s)),
        hang_s=ledger.take("hang_timeout", Limits.hang_s),
        signals=ledger.take("signals_to_handle", Limits.signals),
    )


def find_waits(ledger: Ledger) -> dict[str, float]:
    """Return how long a gang waits: ``join_s``, ``last_call_s`` and ``lost_s``.

    Raises:
        SettingError: ``--rdzv-conf`` has a key or a value that is none.

    """
    conf = _Conf(ledger)
    return {
        "join_s": conf.wait("join_timeout", ("join_timeout", "timeout"), Gang.join_s),
        "last_call_s": conf.wait("last_call_timeout", ("last_call_timeout",), Gang.last_call_s),
        "lost_s": conf.lost_s(),
    }


class _Conf:
    """``--rdzv-conf``, and the options that go before it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._source = ledger.choices["rdzv_conf"].source
        self._pairs: dict[str, str] = ledger.choices["rdzv_conf"].value or {}
        names = (*_USED, *_KEEP_ALIVE, *_UNUSED)
        for key in self._pairs:
            if key not in names:
                meant = closest(key, names)
                hint = f"did you mean {meant}?" if meant else f"known are {', '.join(names)}"
                raise SettingError(f"{self._source} has no key {key}: {hint}")
        unused = [key for key in self._pairs if key in _UNUSED]
        if unused:
            ledger.notes.append(
                f"{self._source}: {', '.join(unused)} not used: this gang has no such setting"
            )

    def wait(self, name: str, keys: tuple[str, ...], default: float) -> float:
        """Return a limit that an option of its own gives, or else the first of the keys."""
        choice = self._ledger.choices.get(name, Choice())
        key = next((key for key in keys if key in self._pairs), "")
        found = known(choice, default)
        if key and not choice.level:
            found = Known(self._number(key), f"{self._source} {key}")
        return float(self._ledger.note(name, found))

    def lost_s(self) -> float:
        """Return after how long without a word a node is lost: torchrun counts keep-alives."""
        if not any(key in self._pairs for key in _KEEP_ALIVE):
            return float(self._ledger.note("lost_timeout", Known(Gang.lost_s, "default")))
        each = [
            self._number(key) if key in self._pairs else default
            for key, default in _KEEP_ALIVE.items()
        ]
        lost_s = each[0] * each[1]
        if lost_s <= 0:
            raise SettingError(f"{self._source}: keep_alive_* is not allowed to be 0: give more")
        return float(self._ledger.note("lost_timeout", Known(lost_s, f"{self._source} keep_alive")))

    def _number(self, key: str) -> float:
        return _seconds(f"{self._source} {key}=", self._pairs[key])


def _seconds(name: str, text: str) -> float:
    try:
        return values.seconds(text)
    except ValueError as error:
        raise SettingError(f"{name}{ascii(text)[1:-1]} is not allowed: give {error}") from None
