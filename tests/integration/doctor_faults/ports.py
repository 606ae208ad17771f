# SPDX-License-Identifier: Apache-2.0
"""Ports of a pod's NICs that do not carry what they should."""

import doctor_pods
from pod_scenarios import NOT_HERE

from doctor_faults.fault import saved

# The healthy pod's second NIC; the first one stays as it is.
PORT = "/sys/class/infiniband/mlx5_3/ports/1"
NONE = "0000:0000:0000:0000:0000:0000:0000:0000\n"


def _second(**changes: object) -> dict[str, object]:
    return {"verbs": doctor_pods.verbs({}, changes)}


FAULTS = [
    saved(
        "no link at one of two NICs",
        "port-state",
        {f"{PORT}/state": "1: DOWN\n", f"{PORT}/phys_state": "3: Disabled\n"},
        _second(state="DOWN", gids={}),
    ),
    saved(
        "no subnet manager",
        "port-state",
        {f"{PORT}/state": "2: INIT\n", f"{PORT}/link_layer": "InfiniBand\n"},
        _second(state="INIT", gids={}),
    ),
    saved("InfiniBand beside Ethernet", "link-layer", {f"{PORT}/link_layer": "InfiniBand\n"}),
    saved(
        "a NIC at half its sibling's rate",
        "port-rate",
        {f"{PORT}/rate": "200 Gb/sec (2X NDR)\n"},
        _second(speed_gbps=200.0),
    ),
    saved(
        "a NIC at a quarter of its sibling's rate",
        "port-rate",
        {f"{PORT}/rate": "100 Gb/sec (4X EDR)\n"},
        _second(speed_gbps=100.0),
    ),
    saved(
        "no GID works in this namespace",
        "gid-usable",
        probes=_second(gids=dict.fromkeys("0123", NOT_HERE)),
    ),
    saved(
        "GIDs that are link-local only",
        "gid-routable",
        {f"{PORT}/gids/2": NONE, f"{PORT}/gids/3": NONE},
        _second(gids={"0": "", "1": ""}),
    ),
    saved(
        "an interface of 1500 bytes beside one of 9000",
        "mtu",
        {"/sys/class/net/net2/mtu": "1500\n"},
        _second(active_mtu=1024),
    ),
    saved(
        "a limited member of its partition",
        "pkey",
        {"/sys/class/infiniband/mlx5_ib0/ports/1/pkeys/0": "0x7fff\n"},
        pod="nccl_1464_ndv4_without_pcie",
    ),
    saved(
        "the interface got another address than the GID",
        "gid-address",
        {"/proc/net/fib_trie": "        |-- 10.2.0.99\n           /32 host LOCAL\n"},
    ),
    saved(
        "a link that goes down again and again",
        "port-errors",
        {f"{PORT}/counters/link_downed": "214\n", f"{PORT}/counters/symbol_error": "0\n"},
    ),
    saved(
        "packets that come out of order, and are sent again",
        "port-errors",
        {
            f"{PORT}/hw_counters/out_of_sequence": "90210\n",
            f"{PORT}/hw_counters/local_ack_timeout_err": "4711\n",
        },
    ),
]
