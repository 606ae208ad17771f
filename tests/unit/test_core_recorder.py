"""The flight recorder as ``_core`` shows it, without torch: one rank, in this process."""

import pytest

from rdmatrain import _core
from rdmatrain.comm.trace import Record
from rdmatrain.errors import CommError


def alone() -> _core.Comm:
    comm = _core.Comm(0, 1, b"recorder" * 2)
    comm.connect([("self", b"", "alone")], 5.0)
    return comm


def records_of(comm: _core.Comm) -> list[Record]:
    return [Record(*row) for row in comm.records()]


def test_a_communicator_tells_what_it_did_even_when_it_is_closed() -> None:
    one, other = alone(), alone()
    one.post("all_reduce", "int16", "MAX", out=bytearray(10), timeout=3.0).wait(5.0)
    one.post("all_gather", in_=bytearray(7), out=bytearray(7)).wait(5.0)
    other.post("barrier").wait(5.0)
    one.close()
    reduced, gathered = records_of(one)
    assert (reduced.coll, reduced.dtype, reduced.op) == ("all_reduce", "int16", "MAX")
    assert (reduced.in_count, reduced.out_count, reduced.seq) == (5, 5, 1)
    assert (reduced.timeout_ns, gathered.timeout_ns) == (3 * 10**9, 0)
    assert (gathered.coll, gathered.seq, gathered.status) == ("all_gather", 2, "OK")
    assert reduced.id < gathered.id
    assert 0 < reduced.created_ns <= reduced.started_ns <= reduced.over_ns <= gathered.created_ns
    assert [r.coll for r in records_of(other)] == ["barrier"]
    assert one.number() == reduced.comm != other.number()
    everything = {Record(*row).comm for row in _core.recorder_read()}
    assert everything >= {one.number(), other.number()}
    other.close()


def test_what_fails_in_the_arguments_is_not_recorded() -> None:
    comm = alone()
    with pytest.raises(ValueError, match="has no meaning"):
        comm.post("all_reduce", "float32", "BXOR", out=bytearray(8))
    assert comm.records() == []
    comm.close()


def test_an_abort_is_no_error_event() -> None:
    comm = alone()
    errors, _, _ = _core.recorder_events()
    comm.abort("enough")
    with pytest.raises(CommError):
        comm.post("barrier")
    assert _core.recorder_events()[0] == errors
    comm.close()


def test_a_signal_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="signal 4000"):
        _core.recorder_on_signal(4000)
