# SPDX-License-Identifier: Apache-2.0
"""Ranks that measure: here threads of one process, with a store in a dictionary."""

import os
import time
from dataclasses import replace
from typing import Any

import pytest
from doctor_gangs import DictStore, on_threads
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain import _core
from rdmatrain.comm import bootstrap, rdma
from rdmatrain.comm.bootstrap import Place
from rdmatrain.comm.pairs import Pair
from rdmatrain.comm.rdma import Rail
from rdmatrain.config import Settings
from rdmatrain.discovery.model import Gid, Port
from rdmatrain.doctor.gang import clock, facts, pairs
from rdmatrain.doctor.gang.group import form, payload, wrong_blocks
from rdmatrain.doctor.gang.model import Meeting, Peer, Plan
from rdmatrain.doctor.gang.pairs import Tournament, path_mtu
from rdmatrain.doctor.gang.store import Part
from rdmatrain.doctor.gang.wait import collect, first_of

RAIL = Rail(Port("fake0", 1, "ACTIVE", "Ethernet"), (Gid(1, "10.0.0.1", "RoCE v2"),), 1024, 100.0)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "TIMED_S", 0.002)
    monkeypatch.setattr(pairs, "PINGS", 10)
    monkeypatch.setattr(pairs, "CALL_S", 2.0)


def tournament(store: DictStore, rank: int, world: int, transport: str, **other: Any) -> Tournament:
    pair = Pair(transport, "for the test", 1)
    fields: dict[str, Any] = {
        "store": store,
        "place": Place(rank, world, 10.0),
        "settings": Settings(),
        "pairs": [Pair("self", "") if peer == rank else pair for peer in range(world)],
        "rails": (),
        "peers": [Peer(rank=each, host="pod", num_rails=2) for each in range(world)],
        "deadline": time.monotonic() + 20,
        "patience_s": 10.0,
    }
    return Tournament(**(fields | other))


def play(world: int, transport: str, **other: Any) -> list[tuple[Meeting, ...]]:
    store = DictStore()
    players = [tournament(store, rank, world, transport, **other) for rank in range(world)]
    return on_threads([player.play for player in players])


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_each_pair_is_pinged_written_and_compared(transport: str) -> None:
    found = play(3, transport)
    for rank, meetings in enumerate(found):
        assert sorted(each.peer for each in meetings) == [r for r in range(3) if r != rank]
        for each in meetings:
            assert each.error == "" and each.transport == transport
            assert each.ping_us is not None and 0 < each.ping_us < 1e6
            assert each.gbps is not None and each.gbps > 0
            assert each.num_checked == 2 * pairs.PING_BYTES + pairs.BLOCK
            assert each.num_wrong == 0


def test_over_rdma_each_rail_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def argument(rails: Any, address: str, _: Settings) -> str:
        opened.append(str(rails[0].port))
        return f"rails=fake0/1/1 addr={address} fake=seed=5"

    monkeypatch.setattr(rdma, "listen_argument", argument)
    other = replace(RAIL, port=Port("fake1", 1, "ACTIVE", "Ethernet"))
    found = play(2, "verbs", rails=(RAIL, other))
    assert [meetings[0].error for meetings in found] == ["", ""]
    # Two directions, and two ends of each.
    assert sorted(opened) == ["fake0/1"] * 4 + ["fake1/1"] * 4
    assert found[0][0].num_checked == 2 * (2 * pairs.PING_BYTES + pairs.BLOCK)


def test_wrong_bytes_are_counted_by_who_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flawed:
        """Gets a wrong byte with each block that is compared."""

        def __init__(self, transport: str, argument: Any, side: int, token: bytes) -> None:
            self._pair, self._side = _core.Pair(transport, argument, side, token), side

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pair, name)

        def write(self, calls: int, timeout: float, check: bool = False) -> Any:
            seconds, num_wrong = self._pair.write(calls, timeout, check)
            return seconds, num_wrong + (check and self._side)

    class Core:
        Pair = Flawed

    monkeypatch.setattr(pairs, "_core", Core)
    assert [meetings[0].num_wrong for meetings in play(2, "shm")] == [1, 1]


def test_a_pair_that_cannot_be_joined_says_why_at_both_ends_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = DictStore()
    players = [tournament(store, rank, 3, "shm") for rank in range(3)]
    players[2].pairs = [Pair("tcp", ""), Pair("shm", ""), Pair("self", "")]
    players[2].settings = Settings(addr="no-such-host.invalid")
    monkeypatch.setattr(pairs, "CALL_S", 0.5)
    found = on_threads([player.play for player in players])
    errors = [{each.peer: each.error for each in meetings} for meetings in found]
    assert "no-such-host.invalid" in errors[2][0]
    assert "no-such-host.invalid" in errors[0][2] and "rank 2" in errors[0][2]
    assert errors[0][1] == errors[1][0] == errors[1][2] == errors[2][1] == ""


def test_who_has_left_is_not_waited_for() -> None:
    store = DictStore()
    pairs.leave(store, 1)
    began = time.monotonic()
    (meeting,) = tournament(store, 0, 2, "shm").play()
    assert meeting.error == "rank 1 does no longer take part"
    assert time.monotonic() - began < 5


def test_who_does_not_come_is_waited_for_no_longer_than_that() -> None:
    (meeting,) = tournament(DictStore(), 0, 2, "shm", patience_s=0.0).play()
    assert meeting.error == "rank 1 did not come in time"


def test_what_there_is_no_time_for_is_nobodys_fault() -> None:
    store = DictStore()
    meetings = tournament(store, 0, 5, "shm", deadline=time.monotonic()).play()
    assert [(each.error, each.ping_us, each.gbps) for each in meetings] == [("", None, None)] * 4
    assert not store.check(["left/0"])


def test_a_rank_whose_first_meetings_all_fail_leaves() -> None:
    store = DictStore()
    meetings = tournament(store, 0, 8, "shm", patience_s=0.0).play()
    assert store.check(["left/0"])
    assert [each.error.startswith("left out") for each in meetings] == [False] * 3 + [True] * 4


def test_a_rank_that_meets_only_who_has_left_stays() -> None:
    store = DictStore()
    for rank in range(1, 8):
        pairs.leave(store, rank)
    meetings = tournament(store, 0, 8, "shm").play()
    assert not store.check(["left/0"])
    assert all("does no longer take part" in each.error for each in meetings)


# The group


def test_the_group_forms_and_gathers_what_each_rank_sent() -> None:
    store = DictStore()
    calls = [
        lambda rank=rank: form(Part(store, "group/"), Place(rank, 2, 10.0), Settings(), b"")
        for rank in range(2)
    ]
    groups = on_threads(calls)
    for group in groups:
        assert group.error == "" and group.wrong_ranks == ()
        assert group.gathered == 64 << 10
        assert {pair.transport for pair in group.turn.pairs} == {"self", "shm"}
    for group in groups:
        group.close()


def test_a_group_that_does_not_form_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "FAREWELL_SECONDS", 0.0)
    group = form(DictStore(), Place(0, 2, 0.05), Settings(), b"")
    assert "waited 0.05 s for rank 1" in group.error and group.gathered == 0


@given(st.integers(0, 3), st.integers(0, 99), st.integers(1, 255))
def test_a_byte_that_is_wrong_is_of_the_rank_that_sent_it(rank: int, at: int, flip: int) -> None:
    every = bytearray(b"".join(payload(each, 100) for each in range(4)))
    assert wrong_blocks(every, 4) == ()
    every[100 * rank + at] ^= flip
    assert wrong_blocks(every, 4) == (rank,)


def test_a_block_of_another_rank_is_wrong() -> None:
    assert wrong_blocks(payload(0, 50) + payload(0, 50), 2) == (1,)


# Clocks


@given(st.floats(-1e3, 1e3), st.floats(0, 1), st.floats(0, 1))
def test_an_exchange_is_wrong_by_half_its_time_at_most(off: float, out: float, back: float) -> None:
    found = clock.offset(100.0, 100.0 + out + off, 100.0 + out + back)
    assert abs(found.seconds - off) <= found.rtt_s / 2 + 1e-9
    assert found.rtt_s == pytest.approx(out + back)


def test_each_rank_learns_how_late_it_is_at_rank_0() -> None:
    store, end = DictStore(), time.monotonic() + 10

    def serve() -> None:
        """Answer as rank 0 whose clock is 100 s ahead."""
        for rank in (1, 2):
            for i in range(clock.EXCHANGES):
                first_of(store, [f"clock/{rank}/{i}/ask"], end)
                store.set(f"clock/{rank}/{i}/say", repr(time.time() + 100))

    found = on_threads([serve, *(lambda r=r: clock.ask(store, r, end) for r in (1, 2))])
    assert [round(each.seconds) for each in found[1:]] == [100, 100]
    assert all(0 <= each.rtt_s < 5 for each in found[1:])


def test_rank_0_answers_each_rank_and_gives_up_on_who_does_not_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "EXCHANGE_S", 0.01)
    store, end = DictStore(), time.monotonic() + 0.4
    for i in range(clock.EXCHANGES):
        store.set(f"clock/2/{i}/ask", "")
    clock.serve(store, 3, end)
    said = [float(store.get(f"clock/2/{i}/say")) for i in range(clock.EXCHANGES)]
    assert all(abs(each - time.time()) < 60 for each in said)
    assert not store.check(["clock/1/0/say"])


def test_a_clock_that_nobody_tells_is_not_known() -> None:
    assert clock.ask(DictStore(), 1, time.monotonic()) is None


# Facts, and waiting


def test_a_pod_says_what_it_is() -> None:
    plan = Plan(timeout_s=1.0, gpus=("H100",))
    settings = Settings(require="verbs", addr="10.0.0.7")
    pod = facts.pod_of(3, plan, settings, facts.find_rails(settings))
    assert (pod.rank, pod.gpus, pod.wants, pod.address) == (3, ("H100",), "verbs", "10.0.0.7")
    assert pod.versions["kernel"] == os.uname().release and pod.versions["rdmatrain"]
    assert pod.rails or pod.no_rails


def test_a_device_that_was_named_and_is_not_there_is_a_reason() -> None:
    found = facts.find_rails(Settings(devices="mlx5_99"))
    assert "mlx5_99" in found.why_not and found.present and found.rails == ()


def test_the_version_of_rdma_core_is_that_of_its_library() -> None:
    maps = "7f00-7f01 r-xp 0 08:01 1 /usr/lib/libibverbs.so.1.14.50.0\n7f00 r-xp 0 0 0 [heap]\n"
    assert facts.rdma_core(maps) == "50"
    assert facts.rdma_core("7f00-7f01 r-xp 0 08:01 1 /usr/lib/libc.so.6\n\n") == ""


def test_the_way_to_oneself_has_an_mtu_and_the_way_to_nowhere_none() -> None:
    assert path_mtu("127.0.0.1") >= 1280
    assert path_mtu("") == 0 and path_mtu("no address") == 0


def test_the_first_key_counts_and_none_does_when_time_is_up() -> None:
    store = DictStore()
    store.set("b", "")
    assert first_of(store, ["a", "b"], time.monotonic()) == "b"
    assert first_of(store, ["a"], time.monotonic()) == ""


def test_what_is_there_in_time_is_collected() -> None:
    store = DictStore()
    store.set("pod/0", "x")
    store.set("pod/2", "z")
    assert collect(store, "pod", range(3), time.monotonic()) == {0: "x", 2: "z"}
