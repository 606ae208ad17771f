"""Counters of a port, each with how often what it counts may happen without harm."""

from collections.abc import Iterable

from rdmatrain.discovery.model import Port
from rdmatrain.discovery.sysfs import number
from rdmatrain.doctor.checks.rdma_case import folder, listed
from rdmatrain.doctor.model import Case, Finding, passed, skipped, warned

# How often something may happen without harm.
#
# Each start of a driver and each pulled cable takes a link down: a few are normal.
MAX_LINK_DOWNS = 10
# InfiniBand allows one wrong bit in 1e12. A port that has hardly sent yet gets the benefit.
BIT_ERRORS, FEW_SYMBOLS = 1e-12, 100
# A lost packet makes RoCE send a window anew: 122 of 4 KiB at 400 Gbit/s and 10 us. One in 1e4
# costs 1 % of the bandwidth.
LOSSES, FEW_LOSSES = 1e-4, 1000
# A lost acknowledgement stops a queue pair for its timeout, 67 ms at the least that is usual, in
# which 400 Gbit/s would carry 800 000 packets of 4 KiB: one in 1e7 costs 8 %. Each queue pair of a
# job that was killed leaves up to seven.
TIMEOUTS, FEW_TIMEOUTS = 1e-7, 10_000


def see_link(device: str) -> str:
    """Return how somebody looks at a cable."""
    return f"mlxlink -d {device} -c, on the host: see to the cable"


def judge_errors(case: Case, port: Port) -> Finding:
    """Compare each counter with what is normal for so much traffic."""
    rows = list(_counters(case, port))
    if not rows:
        return skipped(f"{port}: its counters cannot be read")
    many = [
        f"{name} {value} (normal: up to {most:.0f})" for name, value, most in rows if value > most
    ]
    if not many:
        return passed(f"{port}: {listed(f'{name} {value}' for name, value, _ in rows)}")
    losses = "out_of_sequence packet_seq_err local_ack_timeout_err"
    lossy = any(each.split()[0] in losses for each in many)
    pause = (
        f"mlnx_qos -i PF --pfc 0,0,0,1,0,0,0,0, on the hosts, and the same of the switch of {port}"
    )
    return warned(f"{port}: {listed(many)}", pause if lossy else see_link(port.device))


def _counters(case: Case, port: Port) -> Iterable[tuple[str, int, float]]:
    """Yield the counters that can be read, each with how much is normal."""

    def read(name: str) -> int | None:
        return number(case.source, f"{folder(port)}/{name}")

    # port_rcv_data counts words of four bytes.
    bits = 32 * (read("counters/port_rcv_data") or 0)
    sent = read("counters/port_xmit_packets") or 0
    received = read("counters/port_rcv_packets") or 0
    for name, most in (
        ("counters/link_downed", MAX_LINK_DOWNS),
        ("counters/link_error_recovery", MAX_LINK_DOWNS),
        ("counters/symbol_error", max(FEW_SYMBOLS, bits * BIT_ERRORS)),
        ("hw_counters/out_of_sequence", max(FEW_LOSSES, received * LOSSES)),
        ("hw_counters/packet_seq_err", max(FEW_LOSSES, sent * LOSSES)),
        ("hw_counters/local_ack_timeout_err", max(FEW_TIMEOUTS, sent * TIMEOUTS)),
    ):
        value = read(name)
        if value is not None:
            yield name.partition("/")[2], value, most
