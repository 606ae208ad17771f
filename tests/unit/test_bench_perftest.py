# SPDX-License-Identifier: Apache-2.0
"""perftest, by programs that say what the real ones said in the guest."""

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rdmatrain.bench import perftest
from rdmatrain.bench.contestants import OF_CORE, Perftest
from rdmatrain.bench.model import Case, Entry
from rdmatrain.bench.running import ContestantError

RULE = "-" * 87
HEAD = f"""{RULE}
                    RDMA_Write BW Test
 Dual-port       : OFF\t\tDevice         : rxe0
 Number of qps   : 1\t\tTransport type : IB
 Connection type : RC\t\tUsing SRQ      : OFF
 PCIe relax order: ON
 ibv_wr* API     : OFF
 TX depth        : 128
 CQ Moderation   : 1
 Mtu             : 4096[B]
 Link type       : Ethernet
 GID index       : 1
 Max inline data : 0[B]
 rdma_cm QPs\t : OFF
 Data ex. method : Ethernet
{RULE}
 local address: LID 0000 QPN 0x0011 PSN 0xf98b0c RKey 0x000277 VAddr 0x0056105ecb6000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:09:00:01
 remote address: LID 0000 QPN 0x0012 PSN 0x75eb32 RKey 0x0003cb VAddr 0x00561695045000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:09:00:01
{RULE}
"""
BANDWIDTH = f"""{HEAD}\
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      400              8.32               5.48   \t\t   0.000088
{RULE}
"""
LATENCY_ROWS = """\
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]\
   99% percentile[usec]   99.9% percentile[usec]
 8       5          12.79          51167.22      26.84    \t       2937.93     \t5449.20\t\t\
25644.00 \t\t51167.22
"""
LATENCY = f"{HEAD}#, usec\n1, 31.5\n2, 12.79\n3, 51167.2\n4, 26.84\n{RULE}\n{LATENCY_ROWS}{RULE}\n"
UNTIMED = "Correlation coefficient r^2: 0.883157 < 0.9"
NO_TIMES = f"{HEAD}#, usec\n1, inf\n2, inf\n3, inf\n4, inf\n{RULE}\n{UNTIMED}\n"

# A program of perftest: a server listens until its client comes; every start is noted.
PROGRAM = """#!{python}
import pathlib, socket, sys
here = pathlib.Path(__file__)
port = int(sys.argv[sys.argv.index("-p") + 1])
is_client = sys.argv[-1] == "127.0.0.1"
with here.with_suffix(".log").open("a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
role = here.with_suffix(".client" if is_client else ".server")
if is_client:
    socket.create_connection(("127.0.0.1", port), 10).close()
else:
    if not role.exists():
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.accept()
if role.exists():
    status, _, text = role.read_text().partition(" ")
    print(text)
    sys.exit(int(status))
"""


def case(op, nbytes=65536):
    return Case(op, "uint8", "", nbytes, in_place=False)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """The folder of the programs: NAME.client and NAME.server have a status and a text."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in perftest.TOOLS.values():
        (folder / name).write_text(PROGRAM.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def wire(tmp_path, monkeypatch, tools):
    rail = SimpleNamespace(
        port=SimpleNamespace(device="mlx5_3", number=2), gid=SimpleNamespace(index=7)
    )
    found = SimpleNamespace(rails=(rail,), why_not="")
    monkeypatch.setattr(perftest.rdma, "find_rails", lambda settings: found)
    folder = tmp_path / "out"
    folder.mkdir()
    made = perftest.PerftestWire(Perftest(Entry("perftest"), OF_CORE), 2, folder)
    yield made
    made.close()


def starts(tools, name):
    """The arguments of each start of a program."""
    return [line.split() for line in (tools / name).with_suffix(".log").read_text().splitlines()]


@pytest.fixture(autouse=True)
def nothing_is_left(tools):
    yield
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert str(tools) not in process.read_text()


def test_a_write_is_the_average_of_all(wire, tools):
    (tools / "ib_write_bw.client").write_text(f"0 {BANDWIDTH}")
    prepared = wire.prepare(case("write"), check=True)
    seconds = 65536 / (5.48 * 2**20)  # its MB are MiB
    assert prepared.nwrong is None
    assert prepared.guess_s == pytest.approx(seconds)
    assert wire.time(calls=400, warmup=10) == [[pytest.approx(seconds)] * 400]
    server, client = starts(tools, "ib_write_bw")[-2:]
    assert client == [*server, "127.0.0.1"]
    assert server[:11] == ["-d", "mlx5_3", "-i", "2", "-x", "7", "-F", "-s", "65536", "-n", "400"]
    assert server[-3:] == ["--perform_warm_up", "-p", server[-1]]
    assert len(wire.time(calls=2, warmup=0)[0]) == 5, "it makes no fewer"
    assert not any(
        "warm_up" in word for start in starts(tools, "ib_write_bw")[-2:] for word in start
    )


def test_a_pingpong_has_each_half_in_order(wire, tools):
    (tools / "ib_write_lat.client").write_text(f"0 {LATENCY}")
    wire.prepare(case("pingpong", 8), check=False)
    times = wire.time(calls=3, warmup=1)
    assert times == [[pytest.approx(us * 1e-6) for us in (12.79, 51167.2, 26.84)]]
    assert "-U" in starts(tools, "ib_write_lat")[-1]


def test_the_sorted_list_is_no_second_one():
    twice = LATENCY.replace(LATENCY_ROWS, "#, usec\n1, 12.79\n2, 26.84\n3, 31.5\n4, 51167.2\n")
    assert len(perftest.ping_seconds(twice)) == 4


def test_a_clock_that_it_cannot_read_is_tried_again(wire, tools):
    (tools / "ib_write_lat.client").write_text(f"0 {NO_TIMES}")
    with pytest.raises(ContestantError, match=r"could not time its calls.* r\^2: 0\.883157") as why:
        wire.prepare(case("pingpong"), check=True)
    assert not why.value.gone
    assert len(starts(tools, "ib_write_lat")) == 2 * perftest.ATTEMPTS


@pytest.mark.parametrize("role", ["client", "server"])
def test_what_fails_is_told_in_its_words(wire, tools, role):
    (tools / f"ib_write_bw.{role}").write_text("1  Unable to find the Infiniband/RoCE device\n")
    with pytest.raises(ContestantError, match=r"ib_write_bw.*Unable to find the Infi") as why:
        wire.prepare(case("write"), check=True)
    assert not why.value.gone


def test_a_program_that_says_nothing_is_no_result(wire, tools):
    with pytest.raises(ContestantError, match="ended without a result"):
        wire.prepare(case("write"), check=True)


def test_a_client_that_hangs_is_ended(wire, tools, monkeypatch):
    monkeypatch.setattr(perftest, "SLOW_S", 0.5)
    monkeypatch.setattr(perftest, "_listens", lambda port: True)
    (tools / "ib_write_bw").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    with pytest.raises(ContestantError, match=r"took more than .* s"):
        wire.prepare(case("write", 8), check=True)


def test_it_has_two_ends_and_two_operations(wire, tmp_path):
    assert wire.why_not(case("write")) == ""
    assert wire.why_not(case("all_reduce")) == "perftest has no all_reduce"
    four = perftest.PerftestWire(Perftest(Entry("perftest"), OF_CORE), 4, tmp_path)
    assert "two ends" in four.why_not(case("write"))


def test_no_port_is_a_contestant_that_is_gone(tmp_path, monkeypatch):
    found = SimpleNamespace(rails=(), why_not="there is no RDMA device in /sys/class/infiniband")
    monkeypatch.setattr(perftest.rdma, "find_rails", lambda settings: found)
    with pytest.raises(ContestantError, match="no RDMA port can be used: there is no") as why:
        perftest.PerftestWire(Perftest(Entry("perftest"), OF_CORE), 2, tmp_path)
    assert why.value.gone
