# SPDX-License-Identifier: Apache-2.0
"""A main thread that stands in a call of torch.distributed, in whose place is a fake module."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from rdmatrain.launcher.watch import standing as module_under_test
from rdmatrain.launcher.watch.activity import read_bytes
from rdmatrain.launcher.watch.beat import describe
from rdmatrain.launcher.watch.standing import Call, Standing

C10D = "torch.distributed.distributed_c10d"
# Innermost frames are of the module: they block in a lock, which is C, as Work.wait is.
SOURCE = """
class group:
    WORLD = None
def get_process_group_ranks(group): return group.ranks
def get_rank(): return 5
def barrier(group=None, lock=None): lock.acquire()
def all_reduce(tensor, group=None): tensor.acquire()
def send(tensor, dst=None, group=None, tag=0, group_dst=None): tensor.acquire()
def recv(tensor, src=None, group=None, tag=0, group_src=None): tensor.acquire()
def isend(tensor, dst=None, group=None, tag=0, group_dst=None): tensor.acquire()
def irecv(tensor, src=None, group=None, tag=0, group_src=None): tensor.acquire()
def init_process_group(lock): lock.acquire()
def short(tensor, group=None):
    import time
    time.sleep(0.01)
"""
LIMIT_S = 30.0
LEAST_NS = 150_000_000


@dataclass(frozen=True)
class FakeGroup:
    group_name: str
    ranks: tuple[int, ...]


HALF = FakeGroup("half", (3, 5, 9))


@pytest.fixture
def c10d(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = ModuleType(C10D)
    exec(compile(SOURCE, "distributed_c10d.py", "exec"), module.__dict__)
    module.group.WORLD = FakeGroup("0", tuple(range(8)))  # type: ignore[attr-defined]
    module.get_process_group_ranks = lambda group: list(group.ranks)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, C10D, module)
    monkeypatch.setattr(module_under_test, "_LEAST_NS", LEAST_NS)
    yield module


def looks_while(block: Callable[[Any], object], until: Callable[[list[Any]], bool]) -> list[Any]:
    """What a thread sees that looks again and again while the main thread is in the call."""
    lock = threading.Lock()
    lock.acquire()
    seen: list[Any] = []

    def beat() -> None:
        standing, end = Standing(), time.monotonic() + LIMIT_S
        try:
            while not until(seen) and time.monotonic() < end:
                seen.append(standing.look())
                time.sleep(0.02)
        finally:
            lock.release()

    thread = threading.Thread(target=beat)
    thread.start()
    block(lock)
    thread.join()
    return seen


def found(block: Callable[[Any], object]) -> Call:
    began = time.monotonic_ns()
    seen = looks_while(block, lambda seen: bool(seen) and seen[-1] is not None)
    assert seen[-1] is not None, "it was never seen to stand"
    since_ns, call = seen[-1]
    assert began <= since_ns <= time.monotonic_ns() - LEAST_NS
    return call


def in_words(call: Call) -> tuple[str, tuple[int, ...]]:
    return describe(call, call.group, call.ranks, call.rank)


def test_a_collective_is_named_with_its_group_and_whom_it_misses(c10d: Any) -> None:
    call = found(lambda lock: c10d.all_reduce(lock, group=HALF))
    assert in_words(call) == ("all_reduce of group half", (3, 9))
    call = found(lambda lock: c10d.barrier(None, lock))
    assert in_words(call) == ("barrier of group 0", (0, 1, 2, 3, 4, 6, 7))


@pytest.mark.parametrize("prefix", ["", "i"])
def test_messages_have_the_same_words_at_both_ends(c10d: Any, prefix: str) -> None:
    send, recv = (getattr(c10d, prefix + name) for name in ("send", "recv"))
    call = found(lambda lock: send(lock, 9, HALF))
    assert in_words(call) == ("send from rank 5 to rank 9", (9,))
    call = found(lambda lock: recv(lock, group=HALF, group_src=0))
    assert in_words(call) == ("send from rank 3 to rank 5", (3,))
    call = found(lambda lock: recv(lock, group=HALF))
    assert in_words(call) == ("recv of rank 5 from any rank", (3, 9))


@pytest.mark.parametrize("name", ["short calls", "no group", "elsewhere", "another torch"])
def test_what_is_no_standing_in_a_collective(
    c10d: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    num_s = 0.5
    if name == "short calls":  # on a crowded machine one may have no CPU for a while
        monkeypatch.setattr(module_under_test, "_LEAST_NS", 1_500_000_000)
        num_s = 3.0
    end = time.monotonic() + num_s

    def call_often(lock: Any) -> None:
        while not lock.acquire(blocking=False):
            c10d.short(None)

    def have_no_ranks(group: Any) -> Any:
        raise KeyError(group)

    ways: dict[str, Callable[[Any], object]] = {
        "short calls": call_often,
        "no group": c10d.init_process_group,
        "elsewhere": lambda lock: lock.acquire(),
        "another torch": c10d.all_reduce,
    }
    if name == "another torch":
        c10d.get_process_group_ranks = have_no_ranks
    seen = looks_while(ways[name], lambda seen: len(seen) > 5 and time.monotonic() > end)
    assert set(seen) == {None}


def test_a_look_moves_no_bytes(c10d: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who hangs would seem to be busy."""
    monkeypatch.setattr(module_under_test, "_LEAST_NS", 0)
    lock = threading.Lock()
    lock.acquire()
    moved: list[int] = []

    def beat() -> None:
        standing, end, seen = Standing(), time.monotonic() + LIMIT_S, None
        try:
            while seen is None and time.monotonic() < end:
                first, second = read_bytes(os.getpid()), read_bytes(os.getpid())
                seen = standing.look()
                last = read_bytes(os.getpid())
            if seen is not None:
                moved.append(last - second - (second - first))
        finally:
            lock.release()

    thread = threading.Thread(target=beat)
    thread.start()
    c10d.all_reduce(lock)
    thread.join()
    assert moved, "it was never seen to stand"
    assert moved[0] < 16, "what reading that moves itself has a digit more at most"
