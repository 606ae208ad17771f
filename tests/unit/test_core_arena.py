"""The arena without torch: buffers that are blocks of it."""

import gc
from multiprocessing import get_context

import numpy as np
import pytest

from rdmatrain import _core


@pytest.fixture(autouse=True)
def opened() -> None:
    _core.arena_open()
    _core.arena_open()  # once is enough


def test_a_buffer_is_a_block_until_its_last_view_is_gone() -> None:
    before = _core.arena_stats()["num_blocks"]
    array = np.frombuffer(_core.arena_buffer(40_000), dtype=np.int32)
    array[:] = np.arange(10_000) * 3
    part = array[5000:]
    address = part.__array_interface__["data"][0]
    base = _core.arena_offset(array.__array_interface__["data"][0], array.nbytes)
    assert base is not None
    assert _core.arena_offset(address, part.nbytes) == base + 20_000
    del array
    gc.collect()
    assert _core.arena_stats()["num_blocks"] == before + 1
    assert part.tolist() == list(range(15_000, 30_000, 3))
    del part
    assert _core.arena_stats()["num_blocks"] == before


def test_memory_of_others_has_no_offset() -> None:
    array = np.ones(100_000)
    assert _core.arena_offset(array.__array_interface__["data"][0], array.nbytes) is None


def test_stats_count_whole_pages() -> None:
    before = _core.arena_stats()
    held = _core.arena_buffer(4097)
    after = _core.arena_stats()
    assert after["in_use_bytes"] == before["in_use_bytes"] + 8192
    assert held.nbytes == 4097
    assert after["reserved_bytes"] >= 1 << 30


@pytest.mark.parametrize(
    ("nbytes", "error"), [(0, ValueError), (-5, ValueError), (1 << 50, MemoryError)]
)
def test_a_size_that_cannot_be_is_refused(nbytes: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(nbytes)):
        _core.arena_buffer(nbytes)


def _in_child(sender: object) -> None:
    try:
        _core.arena_buffer(5)
    except MemoryError as error:
        sender.send(str(error))


def test_a_forked_child_has_none() -> None:
    receiver, sender = get_context("fork").Pipe(duplex=False)
    child = get_context("fork").Process(target=_in_child, args=(sender,))
    child.start()
    assert receiver.poll(30)
    assert "not open" in receiver.recv()
    child.join(30)
    assert child.exitcode == 0
