"""Facts that take a call, as JSON has them: what libibverbs can open, and which GPUs NVML shows.

A library that is missing or broken is an answer: a probe never raises, and has ``error`` instead.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any, Protocol

from rdmatrain.discovery.deadline import in_time
from rdmatrain.discovery.model import Gid, Port
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.ports import ROCE_V1, preference, read_ports
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import CommError

# Tests stop after this long; what has not been tested is not known to work.
PROBE_SECONDS = 1.0
# Nobody waits for a driver longer: one that first wakes up eight GPUs takes seconds.
HANG_SECONDS = 10.0
NO_PYNVML = "pynvml is not installed"


class Verbs(Protocol):
    """What is asked of libibverbs, by way of ``rdmatrain._core``."""

    def rdma_ports(self) -> list[dict[str, Any]]: ...  # noqa: D102
    def rdma_test_gid(self, device: str, port: int, index: int, /) -> str: ...  # noqa: D102


class GidTester:
    """Says why a GID does not work here, within a limit of time for all that it is asked."""

    def __init__(self, verbs: Verbs, seconds: float | None = None) -> None:
        self._verbs = verbs
        self._seconds = PROBE_SECONDS if seconds is None else seconds
        self._deadline = monotonic() + self._seconds

    def why_not(self, port: Port, gid: Gid) -> str:
        """Return the reason, or an empty string when the GID works here."""
        if monotonic() > self._deadline:
            return f"not tested: {self._seconds:g} s were over"
        reason = self._verbs.rdma_test_gid(port.device, port.number, gid.index)
        # Whoever shows the reason has named the entry.
        return reason.removeprefix(
            f"GID {gid.index} of {port.device} port {port.number} is not usable: "
        )


def live() -> Mapping[str, Callable[[], Any]]:
    """Return the probes of this machine, by name: ``verbs`` and ``nvml``.

    A driver that hangs is an answer as well, after :data:`HANG_SECONDS`.
    """
    return {name: partial(_bounded, name, call) for name, call in calls().items()}


def calls(seconds: float | None = None) -> Mapping[str, Callable[[], Any]]:
    """Return the same, to be called by who waits for them no longer than he wants.

    Args:
        seconds: limit of time for testing GIDs; None for the usual one.

    """
    return {"verbs": partial(_live_verbs, seconds), "nvml": _live_nvml}


def shaped(name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer with what its probe would always have."""
    lists = {"verbs": "ports", "nvml": "gpus"}
    return {**answer, **({lists[name]: []} if name in lists else {})}


def ask_verbs(verbs: Verbs, ports: Sequence[Port], seconds: float | None = None) -> dict[str, Any]:
    """Return which ports can be opened, and for each GID why it does not work.

    Returns:
        ``error``, and ``ports``: each with ``device``, ``port`` (0 for a device that cannot be
        opened), ``error``, ``state``, ``active_mtu`` in bytes, ``speed_gbps``, and ``gids``: by
        index, as text, an empty string for what works. Ports that are not active have none.

    """
    try:
        opened = verbs.rdma_ports()
        active = {
            (each["device"], each["port"])
            for each in opened
            if each["state"] == "ACTIVE" and not each["error"]
        }
        tester = GidTester(verbs, seconds)
        gids = _test_gids(tester, [p for p in ports if (p.device, p.number) in active])
    except CommError as error:
        return {"error": str(error), "ports": []}
    facts = ("device", "port", "error", "state", "active_mtu", "speed_gbps")
    return {
        "error": "",
        "ports": [
            {fact: each[fact] for fact in facts}
            | {"gids": gids.get((each["device"], each["port"]), {})}
            for each in opened
        ],
    }


def ask_nvml(nvml: Any) -> dict[str, Any]:
    """Return the GPUs that the driver shows, in the order of their PCI addresses.

    Args:
        nvml: the module ``pynvml``.

    Returns:
        ``error``, and ``gpus``: each with ``index``, ``uuid``, ``pci``, ``name``, ``minor`` and
        ``mig``, the UUIDs of its visible slices. One that is lost is in ``error`` alone.

    """
    gpus: list[dict[str, Any]] = []
    errors: list[str] = []
    try:
        nvml.nvmlInit()
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                gpus.append(_gpu(nvml, index, nvml.nvmlDeviceGetHandleByIndex(index)))
            except Exception as error:
                errors.append(f"GPU {index}: {error}")
    except Exception as error:
        errors.append(str(error))
    _said(None, nvml, "nvmlShutdown")
    return {"error": f"NVML: {'; '.join(errors)}" if errors else "", "gpus": gpus}


def _bounded(name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    why = in_time(HANG_SECONDS, lambda: found.append(call()))
    return shaped(name, {"error": why}) if why else found[0]


def _live_verbs(seconds: float | None) -> dict[str, Any]:
    try:
        verbs = import_module("rdmatrain._core")
    except ImportError as error:
        return {"error": f"rdmatrain._core cannot be loaded: {error}", "ports": []}
    return ask_verbs(verbs, read_ports(Tree()), seconds)


def _live_nvml() -> dict[str, Any]:
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return {"error": NO_PYNVML, "gpus": []}
    return ask_nvml(nvml)


def _test_gids(tester: GidTester, ports: Sequence[Port]) -> dict[tuple[str, int], dict[str, str]]:
    """Test all entries: the best of each port first, for when time runs out."""
    turns = [
        (turn, port, gid)
        for port in ports
        for turn, gid in enumerate(
            sorted(port.gids, key=lambda gid: (gid.kind == ROCE_V1, preference(gid), gid.index))
        )
    ]
    found: dict[tuple[str, int], dict[str, str]] = {}
    for _, port, gid in sorted(turns, key=lambda each: each[0]):
        why_not = tester.why_not(port, gid)
        found.setdefault((port.device, port.number), {})[str(gid.index)] = why_not
    return found


def _gpu(nvml: Any, index: int, handle: Any) -> dict[str, Any]:
    slices = (
        _said(None, nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        for number in range(_said(0, nvml, "nvmlDeviceGetMaxMigDeviceCount", handle))
    )
    info = _said(None, nvml, "nvmlDeviceGetPciInfo", handle)
    return {
        "index": index,
        "uuid": _text(_said("", nvml, "nvmlDeviceGetUUID", handle)),
        "pci": parse_pci(_text(getattr(info, "busId", ""))),
        "name": _text(_said("", nvml, "nvmlDeviceGetName", handle)),
        "minor": _said(None, nvml, "nvmlDeviceGetMinorNumber", handle),
        "mig": [_text(_said("", nvml, "nvmlDeviceGetUUID", each)) for each in slices if each],
    }


def _said(default: Any, nvml: Any, function: str, *args: Any) -> Any:
    """Call a function of NVML, which an old driver, a slice or a virtual GPU may not have."""
    try:
        return getattr(nvml, function)(*args)
    except Exception:
        return default


def _text(said: Any) -> str:
    """Return what NVML said as text: old versions of pynvml give bytes."""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
