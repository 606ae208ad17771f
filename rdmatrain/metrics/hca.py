"""Counters of the RDMA ports that this node sees: the kernel's own, read when somebody asks."""

from collections.abc import Iterator
from pathlib import Path

from rdmatrain.metrics.tally import Tally

CLASS = Path("/sys/class/infiniband")
MAX_PORTS = 128
# PortXmitData and PortRcvData count 32-bit words (InfiniBand, volume 1, 16.1.3.5).
WORD_BYTES = 4

_TRAFFIC = {
    "port_xmit_data": ("rdmatrain_hca_transmitted_bytes_total", WORD_BYTES),
    "port_rcv_data": ("rdmatrain_hca_received_bytes_total", WORD_BYTES),
    "port_xmit_packets": ("rdmatrain_hca_transmitted_packets_total", 1),
    "port_rcv_packets": ("rdmatrain_hca_received_packets_total", 1),
}
# Each of these says that something was lost, refused or done again.
ERRORS = (
    "symbol_error", "link_error_recovery", "link_downed", "port_rcv_errors",
    "port_rcv_remote_physical_errors", "port_rcv_switch_relay_errors", "port_xmit_discards",
    "port_xmit_constraint_errors", "port_rcv_constraint_errors", "local_link_integrity_errors",
    "excessive_buffer_overrun_errors", "VL15_dropped", "out_of_buffer", "out_of_sequence",
    "duplicate_request", "rnr_nak_retry_err", "packet_seq_err", "implied_nak_seq_err",
    "local_ack_timeout_err", "resp_local_length_error", "resp_cqe_error", "req_cqe_error",
    "req_remote_invalid_request", "req_remote_access_errors", "resp_remote_access_errors",
    "rx_icrc_encapsulated", "roce_adp_retrans", "roce_adp_retrans_to",
)  # fmt: skip
CONGESTION = (
    "port_xmit_wait", "np_cnp_sent", "np_ecn_marked_roce_packets", "rp_cnp_handled",
    "rp_cnp_ignored", "roce_slow_restart", "roce_slow_restart_cnps", "roce_slow_restart_trans",
)  # fmt: skip
_COUNTERS = {
    **dict.fromkeys(ERRORS, "rdmatrain_hca_errors_total"),
    **dict.fromkeys(CONGESTION, "rdmatrain_hca_congestion_total"),
}
_FOLDERS = ("counters", "hw_counters")


def read_ports(root: Path = CLASS) -> Tally:
    """Return the counters of all ports; what a driver does not have is left out.

    Args:
        root: the folder with a folder for each device.

    """
    tally = Tally()
    for device, port in _ports(root):
        _read_port(tally, device, port)
    return tally


def _ports(root: Path) -> Iterator[tuple[str, Path]]:
    found = sorted(root.glob("*/ports/*"), key=lambda path: (path.parts[-3], path.name))
    for path in found[:MAX_PORTS]:
        yield path.parts[-3], path


def _read_port(tally: Tally, device: str, port: Path) -> None:
    where = (device, port.name)
    state = _text(port / "state")
    if state:  # "4: ACTIVE"
        tally.set("rdmatrain_hca_up", float(state.partition(":")[0] == "4"), *where)
    for folder in _FOLDERS:
        for name, (metric, factor) in _TRAFFIC.items():
            if (value := _number(port / folder / name)) is not None:
                tally.set(metric, value * factor, *where)
        for name, metric in _COUNTERS.items():
            if (value := _number(port / folder / name)) is not None:
                tally.set(metric, value, *where, name)


def _number(path: Path) -> int | None:
    """Return what a counter says; None where there is none, or its port does not answer."""
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
