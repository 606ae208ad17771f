"""Settings from the environment. This is the only module of rdmatrain that reads ``os.environ``.

Each reader takes an optional mapping in place of the process environment, so that tests and tools
can ask "what would happen with these variables". Nothing is read at import.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from rdmatrain.errors import SettingError

PREFIX = "RDMATRAIN_"
TRANSPORTS = ("auto", "shm", "tcp")
ARENA = ("on", "off")
SIGNALS = ("USR1", "USR2")
MAX_RECORDS = 1 << 20
LOG_LEVELS = ("error", "warning", "info", "debug")


@dataclass(frozen=True)
class Settings:
    """What ``RDMATRAIN_*`` variables ask of the backend; field ``x`` is variable ``RDMATRAIN_X``.

    Attributes:
        transport: ``RDMATRAIN_TRANSPORT``: ``auto``, ``shm`` or ``tcp``; anything but ``auto`` is
            used for every pair of ranks or fails, never replaced.
        addr: ``RDMATRAIN_ADDR``: the address that this rank's tcp listener binds to and publishes
            to its peers; empty means that the backend derives it.
        arena: ``RDMATRAIN_ARENA``: ``on`` makes the arena torch's allocator for CPU memory when
            torch is imported, ``off`` forbids it; empty leaves it to the program.
        log: ``RDMATRAIN_LOG``: the least severe level that is written.
        tuning: ``RDMATRAIN_TUNING``: changes to the tuning table, see ``rdmatrain.comm.tuning``.
        recorder: ``RDMATRAIN_RECORDER``: how many operations the flight recorder remembers, at
            least; 0 for none.
        recorder_dir: ``RDMATRAIN_RECORDER_DIR``: where its traces are written; empty for
            :func:`recorder_folder`'s choice.
        recorder_signal: ``RDMATRAIN_RECORDER_SIGNAL``: ``USR1`` or ``USR2``: a trace is written
            when the process gets it; empty for none.

    Raises:
        SettingError: a value is not allowed; names the variable, the value and what is allowed.

    """

    transport: str = "auto"
    addr: str = ""
    arena: str = ""
    log: str = "warning"
    tuning: str = ""
    recorder: str = "2048"
    recorder_dir: str = ""
    recorder_signal: str = ""

    def __post_init__(self) -> None:
        _require_one_of("transport", self.transport, TRANSPORTS)
        if self.arena:
            _require_one_of("arena", self.arena, ARENA)
        _require_one_of("log", self.log, LOG_LEVELS)
        if self.recorder_signal:
            _require_one_of("recorder_signal", self.recorder_signal, SIGNALS)
        _require_count("recorder", self.recorder, MAX_RECORDS)

    @property
    def recorder_size(self) -> int:
        """``recorder`` as a number."""
        return int(self.recorder)


@dataclass(frozen=True)
class UnknownSetting:
    """An ``RDMATRAIN_*`` variable that nothing reads.

    Attributes:
        name: the variable as it was found.
        suggestion: the known variable that it resembles, or empty.

    """

    name: str
    suggestion: str

    def __str__(self) -> str:
        hint = f"did you mean {self.suggestion}?" if self.suggestion else _known_names_text()
        return f"{self.name} is set but is not a setting of rdmatrain: {hint}"


@dataclass(frozen=True)
class RankEnv:
    """Who this process is, for messages; a field is None where the variable is unset or no number.

    Attributes:
        rank: ``RANK``, counted over all nodes.
        local_rank: ``LOCAL_RANK``, counted within this node.
        world_size: ``WORLD_SIZE``, the number of ranks.
        local_world_size: ``LOCAL_WORLD_SIZE``, the number of ranks on this node.

    """

    rank: int | None
    local_rank: int | None
    world_size: int | None
    local_world_size: int | None

    def __str__(self) -> str:
        if self.rank is None:
            return "rank ?"
        return (
            f"rank {self.rank}"
            if self.world_size is None
            else (f"rank {self.rank} of {self.world_size}")
        )


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the backend's settings; an empty variable counts as unset.

    Args:
        environ: read this instead of the process environment.

    Raises:
        SettingError: a value is not allowed.

    """
    source = _source(environ)
    found = {
        field.name: source.get(_variable(field.name), "").strip() for field in fields(Settings)
    }
    return Settings(**{name: value for name, value in found.items() if value})


def unknown_settings(environ: Mapping[str, str] | None = None) -> list[UnknownSetting]:
    """List the ``RDMATRAIN_*`` variables that nothing reads, in order of name.

    Args:
        environ: read this instead of the process environment.

    """
    known = known_names()
    unknown = [n for n in sorted(_source(environ)) if n.startswith(PREFIX) and n not in known]
    if not unknown:
        return []
    import difflib  # noqa: PLC0415 - only a misspelt variable pays for it

    # Compared without the prefix, which would make every name look alike.
    endings = [name.removeprefix(PREFIX) for name in known]
    result = []
    for name in unknown:
        close = difflib.get_close_matches(name.removeprefix(PREFIX), endings, n=1)
        result.append(UnknownSetting(name, PREFIX + close[0] if close else ""))
    return result


def known_names() -> tuple[str, ...]:
    """Names of the variables that :func:`load_settings` reads."""
    return tuple(_variable(field.name) for field in fields(Settings))


def rank_env(environ: Mapping[str, str] | None = None) -> RankEnv:
    """Read who this process is from the launcher's variables; never fails.

    Args:
        environ: read this instead of the process environment.

    """
    source = _source(environ)
    return RankEnv(
        rank=_count(source, "RANK"),
        local_rank=_count(source, "LOCAL_RANK"),
        world_size=_count(source, "WORLD_SIZE"),
        local_world_size=_count(source, "LOCAL_WORLD_SIZE"),
    )


def master_addr(environ: Mapping[str, str] | None = None) -> str:
    """Return ``MASTER_ADDR``, the host of the job's store, or an empty string when unset.

    Args:
        environ: read this instead of the process environment.

    """
    return _source(environ).get("MASTER_ADDR", "").strip()


def recorder_folder(settings: Settings, environ: Mapping[str, str] | None = None) -> str:
    """Return the folder for traces of the flight recorder, one file for each rank of the job.

    Without ``RDMATRAIN_RECORDER_DIR`` it is in the user's cache, and named after the job: what
    torchrun or ``rdmatrain run`` calls it, else the port of its store.

    Args:
        settings: where ``recorder_dir`` comes from.
        environ: read this instead of the process environment.

    """
    if settings.recorder_dir:
        return settings.recorder_dir
    source = _source(environ)
    cache = source.get("XDG_CACHE_HOME", "") or str(Path("~/.cache").expanduser())
    run_id = source.get("TORCHELASTIC_RUN_ID", "")
    job = source.get("MASTER_PORT", "") if run_id in {"", "none"} else run_id
    return str(Path(cache) / "rdmatrain" / "flight-recorder" / (job.replace("/", "_") or "job"))


def device_backend_autoload(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether torch loads ``torch.backends`` entry points by itself, by torch's own rule.

    Args:
        environ: read this instead of the process environment.

    """
    return _source(environ).get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1"


def color_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether colour may be written to a terminal: no ``NO_COLOR`` and no dumb terminal.

    Args:
        environ: read this instead of the process environment.

    """
    source = _source(environ)
    return not source.get("NO_COLOR") and source.get("TERM") != "dumb"


def inherited_environment() -> dict[str, str]:
    """Return a copy of the process environment, for a child to be built from."""
    return dict(os.environ)


def _source(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ


def _variable(field_name: str) -> str:
    return PREFIX + field_name.upper()


def _known_names_text() -> str:
    return f"the settings are {', '.join(known_names())}"


def _require_one_of(field_name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(
            f"{_variable(field_name)}={value!r} is not allowed: set it to one of "
            f"{', '.join(allowed)}, or unset it for the default"
        )


def _require_count(field_name: str, value: str, most: int) -> None:
    if not (value.isascii() and value.isdecimal() and int(value) <= most):
        raise SettingError(
            f"{_variable(field_name)}={value!r} is not allowed: set it to a number from 0 to "
            f"{most}, or unset it for the default"
        )


def _count(source: Mapping[str, str], name: str) -> int | None:
    text = source.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() else None
