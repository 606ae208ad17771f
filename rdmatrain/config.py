"""Settings from the environment. This is the only module of rdmatrain that reads ``os.environ``.

Each reader takes an optional mapping in place of the process environment, so that tests and tools
can ask "what would happen with these variables". Nothing is read at import.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from rdmatrain.errors import SettingError
from rdmatrain.spelling import closest

PREFIX = "RDMATRAIN_"
SECRET = "RDMATRAIN_SECRET"
SECRET_FILE = "RDMATRAIN_SECRET_FILE"
METRICS = "RDMATRAIN_METRICS"
# What the launcher tells its workers: no settings, and nothing to warn of.
OF_LAUNCHER = (
    "RDMATRAIN_LEADER",
    "RDMATRAIN_WATCH",
    METRICS,
    "RDMATRAIN_JOB",
)
# What it reads itself: its secret, and options that are given as variables.
OPTIONS_OF_LAUNCHER = (
    SECRET,
    SECRET_FILE,
    "RDMATRAIN_GRACE",
    "RDMATRAIN_HANG_TIMEOUT",
    "RDMATRAIN_JOIN_TIMEOUT",
    "RDMATRAIN_INSECURE",
    "RDMATRAIN_TLS_DIR",
    "RDMATRAIN_NO_BIND",
    "RDMATRAIN_PREFLIGHT",
    "RDMATRAIN_METRICS_PORT",
    "RDMATRAIN_METRICS_ADDR",
    "RDMATRAIN_ONLY",
    "RDMATRAIN_GREP",
)
# What rdmatrain run asks for the doctor.
NO_DOCTOR = "RDMATRAIN_NO_DOCTOR"
TRANSPORTS = ("auto", "verbs", "shm", "tcp")
REQUIRABLE = TRANSPORTS[1:]
ARENA = ("on", "off")
SIGNALS = ("USR1", "USR2")
MAX_RECORDS = 1 << 20
GRACE = PREFIX + "GRACE"
LOG_LEVELS = ("error", "warning", "info", "debug")
# What an address handle and a queue pair have room for.
MAX_GID_INDEX = 255
MAX_TRAFFIC_CLASS = 255
MAX_SERVICE_LEVEL = 15
MAX_PKEY_INDEX = 65535
MAX_RETRY_MS = 600_000
MTUS = ("256", "512", "1024", "2048", "4096")

# What kubelet sets in every pod for each Service of its namespace, whatever its name.
_SERVICE = re.compile(r"(.+)_(SERVICE_HOST|SERVICE_PORT|PORT)(_.+)?")
_DEVICE = re.compile(r"(?P<device>[A-Za-z0-9_.-]+)(:(?P<port>[1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """What ``RDMATRAIN_*`` variables ask of the backend; field ``x`` is variable ``RDMATRAIN_X``.

    Attributes:
        transport: ``RDMATRAIN_TRANSPORT``: ``auto``, ``verbs``, ``shm`` or ``tcp``; anything but
            ``auto`` is used for every pair of ranks or fails, never replaced.
        addr: ``RDMATRAIN_ADDR``: the address that this rank's listener binds to and publishes to
            its peers; empty means that the backend derives it.
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
        require: ``RDMATRAIN_REQUIRE``: ``verbs``, ``shm`` or ``tcp``: what joins ranks of
            different hosts, or the group fails; empty for the best that both ranks have.
        devices: ``RDMATRAIN_DEVICES``: the RDMA ports to use, see :class:`DeviceList`; empty for
            all that are active.
        gid_index: ``RDMATRAIN_GID_INDEX``: the entry of the ports' GID tables; empty for the first
            that works, see ``rdmatrain.comm.rdma``.
        traffic_class: ``RDMATRAIN_TRAFFIC_CLASS``: of RoCE packets, 0 to 255; empty for 0.
        service_level: ``RDMATRAIN_SERVICE_LEVEL``: 0 to 15; empty for 0.
        pkey: ``RDMATRAIN_PKEY``: index in the ports' tables of partition keys; empty for 0.
        mtu: ``RDMATRAIN_MTU``: most bytes of a packet; empty for the ports' active MTU.
        retry_ms: ``RDMATRAIN_RETRY_MS``: how long a NIC retries, and a port may be down; empty or 0
            for 1500, at most a quarter of the group's timeout.
        given: fields that did not come from a variable.
        given_as: how texts call those, with ``{}`` for the field's name.

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
    require: str = ""
    devices: str = ""
    gid_index: str = ""
    traffic_class: str = ""
    service_level: str = ""
    pkey: str = ""
    mtu: str = ""
    retry_ms: str = ""
    given: tuple[str, ...] = field(default=(), repr=False)
    given_as: str = field(default="{}", repr=False)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            self._require_one_of(name, choices)
        for name, most in _COUNTS.items():
            self._require_count(name, most)
        if self.transport != "auto" and self.require not in {"", self.transport}:
            raise SettingError(
                f"{self.name_of('transport')}={self.transport} and "
                f"{self.name_of('require')}={self.require} contradict each other: leave out one"
            )
        self.device_list  # noqa: B018 - raises if it is wrong

    @property
    def recorder_size(self) -> int:
        """``recorder`` as a number."""
        return int(self.recorder)

    @property
    def device_list(self) -> "DeviceList":
        """``devices`` as data."""
        return DeviceList.parse(self.devices, self.name_of("devices"))

    def name_of(self, field_name: str) -> str:
        """Return what the user calls a field: the variable, or what was given instead of it."""
        if field_name in self.given:
            return self.given_as.format(field_name)
        return _variable(field_name)

    def _require_one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed and value != _DEFAULTS[name]:
            raise SettingError(
                f"{self.name_of(name)}={value!r} is not allowed: set it to one of "
                f"{', '.join(allowed)}, or leave it out for the default"
            )

    def _require_count(self, name: str, most: int) -> None:
        value = getattr(self, name)
        if value == _DEFAULTS[name]:
            return
        if not (value.isascii() and value.isdecimal() and int(value) <= most):
            raise SettingError(
                f"{self.name_of(name)}={value!r} is not allowed: set it to a number from 0 to "
                f"{most}, or leave it out for the default"
            )


_DEFAULTS = {each.name: each.default for each in fields(Settings)}
# Fields and what they may be besides their default.
_CHOICES = {
    "transport": TRANSPORTS,
    "require": REQUIRABLE,
    "arena": ARENA,
    "log": LOG_LEVELS,
    "recorder_signal": SIGNALS,
    "mtu": MTUS,
}
_COUNTS = {
    "recorder": MAX_RECORDS,
    "gid_index": MAX_GID_INDEX,
    "traffic_class": MAX_TRAFFIC_CLASS,
    "service_level": MAX_SERVICE_LEVEL,
    "pkey": MAX_PKEY_INDEX,
    "retry_ms": MAX_RETRY_MS,
}
_FROM_ENVIRONMENT = tuple(name for name in _DEFAULTS if name not in {"given", "given_as"})


@dataclass(frozen=True)
class DeviceList:
    """``RDMATRAIN_DEVICES``: ``mlx5_0:1,mlx5_2`` names ports, ``^mlx5_3`` all but those.

    Names are whole ones; a name without a port stands for all ports of the device. The ranks of a
    host share what is named, except with ``=mlx5_0:1``, which names a rank's own.

    Attributes:
        exclude: the names are those not to use.
        names: device and port; None for all of its ports.
        own: this rank has them to itself.

    """

    exclude: bool
    names: tuple[tuple[str, int | None], ...]
    own: bool = False

    @classmethod
    def parse(cls, text: str, name: str) -> "DeviceList":
        """Parse the setting, which texts call ``name``."""
        exclude, own = text.startswith("^"), text.startswith("=")
        names = []
        for item in text.removeprefix("=").split(",") if text else ():
            # One ^ is for the whole list; it may be repeated.
            match = _DEVICE.fullmatch(item.strip().removeprefix("^" if exclude else ""))
            if match is None:
                raise SettingError(
                    f"{name}={text!r} is not allowed at {item.strip()!r}: give devices as in "
                    "mlx5_0:1,mlx5_2, or ^mlx5_3 for all but that one, or =mlx5_0 for this rank's "
                    "own, or leave it out for all"
                )
            names.append((match["device"], int(match["port"]) if match["port"] else None))
        return cls(exclude, tuple(names), own)

    @property
    def demands(self) -> bool:
        """Whether it names what must be used."""
        return bool(self.names) and not self.exclude

    def allows(self, device: str, port: int) -> bool:
        """Tell whether the port may be used."""
        if not self.names:
            return True
        return ((device, None) in self.names or (device, port) in self.names) != self.exclude


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


def load_settings(
    environ: Mapping[str, str] | None = None,
    given: Mapping[str, str] | None = None,
    given_as: str = "{}",
) -> Settings:
    """Read the backend's settings; an empty variable counts as unset.

    Args:
        environ: read this instead of the process environment.
        given: fields that the user gave in another way, which wins; empty ones do not count.
        given_as: how texts call those, with ``{}`` for the field's name.

    Raises:
        SettingError: a value is not allowed.

    """
    source = _source(environ)
    found = {name: source.get(_variable(name), "").strip() for name in _FROM_ENVIRONMENT}
    won = {name: value for name, value in (given or {}).items() if value}
    chosen = {name: value for name, value in (found | won).items() if value}
    return Settings(**chosen, given=tuple(won), given_as=given_as)


def unknown_settings(environ: Mapping[str, str] | None = None) -> list[UnknownSetting]:
    """List the ``RDMATRAIN_*`` variables that nothing reads, in order of name.

    Args:
        environ: read this instead of the process environment.

    """
    known = known_names()
    settable = (*known, *OPTIONS_OF_LAUNCHER, NO_DOCTOR)
    heard_of = {*settable, *OF_LAUNCHER}
    names = [name.removeprefix(PREFIX) for name in settable]
    return [
        UnknownSetting(name, _with_prefix(closest(name.removeprefix(PREFIX), names)))
        for name in own_variables(PREFIX, environ)
        if name not in heard_of
    ]


def own_variables(prefix: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """List the variables that begin so, in order of name, but those of a Service of Kubernetes.

    Args:
        prefix: what they begin with.
        environ: read this instead of the process environment.

    """
    source = _source(environ)
    names = [name for name in sorted(source) if name.startswith(prefix)]
    hosts = [name for name in names if name.endswith("_SERVICE_HOST")]
    services = tuple(name.removesuffix("SERVICE_HOST") for name in hosts)
    return [name for name in names if not (_SERVICE.fullmatch(name) and name.startswith(services))]


def known_names() -> tuple[str, ...]:
    """Names of the variables that :func:`load_settings` reads."""
    return tuple(_variable(name) for name in _FROM_ENVIRONMENT)


def watch_page(environ: Mapping[str, str] | None = None) -> str:
    """Return ``RDMATRAIN_WATCH``, the file in which this worker tells its launcher how it is.

    Empty without a launcher.

    Args:
        environ: read this instead of the process environment.

    """
    return _source(environ).get("RDMATRAIN_WATCH", "")


def metrics_file(environ: Mapping[str, str] | None = None) -> str:
    """Return ``RDMATRAIN_METRICS``, the file in which this worker counts what it does.

    Empty where nobody asked the launcher for metrics.

    Args:
        environ: read this instead of the process environment.

    """
    return _source(environ).get(METRICS, "")


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
    run_id = source.get("TORCHELASTIC_RUN_ID", "")
    job = source.get("MASTER_PORT", "") if run_id in {"", "none"} else run_id
    return str(cache_folder(source) / "flight-recorder" / (job.replace("/", "_") or "job"))


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return rdmatrain's folder in the user's cache, which need not exist.

    Args:
        environ: read this instead of the process environment.

    """
    cache = _source(environ).get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "rdmatrain"


def grace_s(environ: Mapping[str, str] | None = None) -> float | None:
    """Return ``RDMATRAIN_GRACE``: seconds that the launcher leaves a worker after SIGTERM.

    Args:
        environ: read this instead of the process environment.

    Returns:
        None where no launcher said so, or it is no number.

    """
    text = _source(environ).get(GRACE, "")
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) else None


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


def doctor_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether the doctor is asked after a job that failed: ``RDMATRAIN_NO_DOCTOR`` is unset.

    Args:
        environ: read this instead of the process environment.

    """
    return _source(environ).get(NO_DOCTOR, "").strip() in {"", "0"}


def inherited_environment() -> dict[str, str]:
    """Return a copy of the process environment, for a child to be built from."""
    return dict(os.environ)


def replace_environment(environment: Mapping[str, str]) -> None:
    """Make this the process environment, for what is imported from now on and for children."""
    os.environ.clear()
    os.environ.update(environment)


def set_default(name: str, value: str) -> None:
    """Set a variable that children inherit, unless it is set."""
    os.environ.setdefault(name, value)


def _source(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ


def _variable(field_name: str) -> str:
    return PREFIX + field_name.upper()


def _with_prefix(name: str) -> str:
    return PREFIX + name if name else ""


def _known_names_text() -> str:
    return f"the settings are {', '.join(known_names())}"


def _count(source: Mapping[str, str], name: str) -> int | None:
    text = source.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() else None
