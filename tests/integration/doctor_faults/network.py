# SPDX-License-Identifier: Apache-2.0
"""Pods of a job of two that do not find each other."""

import sys
from pathlib import Path

from doctor_faults.fault import Fault, saved
from doctor_faults.sandbox import IN_JOB, live

LEADER = Path(__file__).with_name("fake_leader.py")
# Dies with the doctor, which takes the place of the shell.
HELD = f'{{}} setpriv --pdeathsig KILL {sys.executable} {LEADER} 29500 "$HERE/ready" &'
HELD += '\nuntil [ -e "$HERE/ready" ]; do sleep 0.02; done'
# This pod is node 0.
FIRST = {"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "worker-1.train"}
NO_CABLE = "ip link delete own0"


def _named(hosts: str) -> str:
    return f'cat > "$HERE/hosts" <<end\n{hosts}end\n'


FAULTS: list[Fault] = [
    live("no cable to the pod's network", "addresses", IN_JOB, shell=NO_CABLE),
    live(
        "the pod's interface is down",
        "addresses",
        IN_JOB,
        shell="ip addr flush own0; ip link set own0 down",
    ),
    live("loopback is down", "loopback", IN_JOB, shell="ip link set lo down"),
    live(
        "localhost is another host",
        "loopback",
        IN_JOB,
        shell=_named("10.77.0.9 localhost\n10.77.0.1 worker-0.train\n10.77.0.2 worker-1\n"),
    ),
    live(
        "the own name is of no use to others",
        "hostname",
        IN_JOB,
        shell=_named("127.0.0.1 localhost\n127.0.1.1 worker-1\n10.77.0.1 worker-0.train\n"),
    ),
    live(
        "the own name is another pod's",
        "hostname",
        IN_JOB,
        shell=_named("127.0.0.1 localhost\n10.77.0.7 worker-1\n10.77.0.1 worker-0.train\n"),
    ),
    live(
        "the own name is unknown",
        "hostname",
        IN_JOB,
        shell=_named("127.0.0.1 localhost\n10.77.0.1 worker-0.train\n"),
    ),
    live(
        "the leader's name is misspelt",
        "dns-leader",
        IN_JOB,
        env={"PET_MASTER_ADDR": "worker-O.train"},
    ),
    live(
        "DNS is nowhere",
        "dns-leader",
        IN_JOB,
        shell=_named("127.0.0.1 localhost\n10.77.0.2 worker-1\n"),
    ),
    live(
        "the rendezvous port is taken",
        "rendezvous-port",
        IN_JOB,
        shell=HELD.format(""),
        env=FIRST,
    ),
    live(
        "the leader cannot be reached",
        "rendezvous-port",
        IN_JOB,
        shell="ip route add unreachable 10.77.0.1/32",
    ),
    live(
        "packets to the leader vanish",
        "rendezvous-port",
        IN_JOB,
        shell="ip neigh replace 10.77.0.1 lladdr 02:00:00:00:00:99 dev own0",
    ),
    live(
        "something else listens at node 0",
        "rendezvous-port",
        IN_JOB,
        shell=HELD.format("ip netns exec far"),
    ),
    saved(
        "the clock is 8 s behind the cluster's",
        "clock",
        probes={
            "clock": {"error": "", "synchronized": True},
            "cluster": {"error": "", "ahead_s": 8.0},
        },
    ),
    live(
        "outgoing connections may take the rendezvous port",
        "port-range",
        IN_JOB,
        shell="sysctl -qw net.ipv4.ip_local_port_range='20000 60000'",
        env=FIRST,
    ),
    live(
        "few ports for outgoing connections",
        "port-range",
        IN_JOB,
        shell="sysctl -qw net.ipv4.ip_local_port_range='50000 50015'",
    ),
    live(
        "the interface's MTU is below IPv6's least",
        "network-mtu",
        IN_JOB,
        shell="ip link set own0 mtu 576",
    ),
]
