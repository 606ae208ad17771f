"""What torch's analyser gets to read, field by field, from records that are made up."""

import ast
import pickle
from typing import Any

import pytest

from rdmatrain import _core
from rdmatrain.comm.trace import ANY_PEER, Group, Record, make_trace

WORLD = Group("0", "default_pg", range(4), rank=1)
PAIR = Group("7", "undefined", (1, 3), rank=0)
WALL_NS = 10**18


def record(**fields: Any) -> Record:
    plain = Record(
        id=5,
        comm=1,
        coll="all_reduce",
        dtype="float32",
        op="SUM",
        peer=0,
        tag=0,
        shape=None,
        in_count=6,
        out_count=6,
        uneven=False,
        seq=3,
        created_ns=100,
        started_ns=2_000_100,
        over_ns=5_000_100,
        timeout_ns=60_000_000_000,
        status="OK",
    )
    return plain._replace(**fields)


def trace(*records: Record) -> dict[str, Any]:
    made = make_trace(records, {1: WORLD, 2: PAIR}, WALL_NS, "request")
    assert pickle.loads(pickle.dumps(made)) == made
    return made


def entry(**fields: Any) -> dict[str, Any]:
    (only,) = trace(record(**fields))["entries"]
    return dict(only)


def test_a_collective_that_succeeded_has_all_that_torch_writes() -> None:
    assert entry() == {
        "frames": [],
        "record_id": 5,
        "op_id": 5,
        "pg_id": 1,
        "process_group": ("0", "default_pg"),
        "profiling_name": "gloo:all_reduce",
        "collective_seq_id": 3,
        "p2p_seq_id": 0,
        "is_p2p": False,
        "input_sizes": [[6]],
        "output_sizes": [[6]],
        "input_dtypes": ["Float"],
        "output_dtypes": ["Float"],
        "state": "completed",
        "status": "OK",
        "retired": True,
        "reduction": "SUM",
        "peer": 0,
        "timeout_ms": 60_000,
        "time_created_ns": WALL_NS + 100,
        "time_discovered_started_ns": WALL_NS + 2_000_100,
        "time_discovered_completed_ns": WALL_NS + 5_000_100,
        "duration_ms": 3.0,
    }


def test_what_is_not_over_has_the_state_that_it_came_to() -> None:
    pending = {"over_ns": 0, "status": None}
    waiting, running = entry(started_ns=0, **pending), entry(**pending)
    assert (waiting["state"], waiting["retired"]) == ("scheduled", False)
    assert waiting["time_discovered_started_ns"] is None
    assert (running["state"], running["retired"]) == ("started", False)
    assert running["time_discovered_completed_ns"] is None
    assert "duration_ms" not in running


def test_what_failed_is_retired_and_not_completed() -> None:
    failed = entry(status="TIMEOUT")
    assert (failed["state"], failed["retired"], failed["status"]) == ("started", True, "TIMEOUT")
    assert failed["time_discovered_completed_ns"] is None


@pytest.mark.parametrize(
    ("fields", "name", "inputs", "outputs"),
    [
        ({"shape": (2, 3)}, "all_reduce", [[2, 3]], [[2, 3]]),
        ({"shape": ()}, "all_reduce", [[6]], [[6]]),
        ({"shape": (), "in_count": 1, "out_count": 1}, "all_reduce", [[]], [[]]),
        (
            {"coll": "all_gather", "shape": (2, 3), "out_count": 24},
            "all_gather",
            [[2, 3]],
            [[4, 2, 3]],
        ),
        ({"coll": "reduce_scatter", "in_count": 24}, "reduce_scatter", [[24]], [[6]]),
        (
            {"coll": "all_gather", "uneven": True, "out_count": 20},
            "all_gather_v",
            [[20]],
            [[20]],
        ),
        (
            {"coll": "reduce_scatter", "uneven": True, "in_count": 20},
            "reduce_scatter_v",
            [[20]],
            [[20]],
        ),
        (
            {"coll": "all_to_all", "uneven": True, "in_count": 9, "out_count": 5},
            "all_to_all",
            [[9]],
            [[5]],
        ),
        ({"coll": "barrier", "in_count": 0, "out_count": 0}, "barrier", [], []),
    ],
)
def test_sizes_are_those_of_the_tensors(
    fields: dict[str, Any], name: str, inputs: list[list[int]], outputs: list[list[int]]
) -> None:
    got = entry(**fields)
    assert got["profiling_name"] == f"gloo:{name}"
    assert (got["input_sizes"], got["output_sizes"]) == (inputs, outputs)


@pytest.mark.parametrize("dtype", _core.DTYPES)
def test_every_dtype_has_a_name_of_torch(dtype: str) -> None:
    (name,) = entry(dtype=dtype)["input_dtypes"]
    assert name.isidentifier()


@pytest.mark.parametrize("coll", _core.COLLS)
def test_every_operation_is_in_the_trace(coll: str) -> None:
    assert entry(coll=coll)["profiling_name"].startswith(f"gloo:{coll}")


def test_a_refused_call_took_no_part() -> None:
    assert trace(record(coll="a refused call"))["entries"] == []


def test_a_collective_that_nobody_drives_yet_is_the_next_one() -> None:
    posted = {"seq": 0, "started_ns": 0, "over_ns": 0, "status": None}
    made = trace(record(id=1, seq=3), record(id=2, **posted), record(id=3, **posted))
    assert [e["collective_seq_id"] for e in made["entries"]] == [3, 4, 5]
    assert made["pg_status"]["1"] == {
        "last_enqueued_collective": 5,
        "last_started_collective": 3,
        "last_completed_collective": 3,
    }


def test_each_direction_between_two_ranks_is_a_group() -> None:
    made = trace(
        record(comm=2, coll="send", peer=1, seq=4, tag=9),
        record(comm=2, coll="recv", peer=1, seq=2),
    )
    sent, received = made["entries"]
    assert sent["process_group"] == ("7 rank 1 to rank 3", "undefined")
    assert (sent["profiling_name"], sent["is_p2p"], sent["tag"]) == ("gloo:send 0->1", True, 9)
    assert (sent["collective_seq_id"], sent["p2p_seq_id"]) == (4, 4)
    assert received["process_group"] == ("7 rank 3 to rank 1", "undefined")
    assert received["profiling_name"] == "gloo:recv 0<-1"
    ranks = {name: ast.literal_eval(c["ranks"]) for name, c in made["pg_config"].items()}
    assert ranks == {
        "0": [0, 1, 2, 3],
        "7": [1, 3],
        "7 rank 1 to rank 3": [1, 3],
        "7 rank 3 to rank 1": [1, 3],
    }


def test_a_recv_that_met_no_send_has_a_number_of_its_own() -> None:
    waiting = {"coll": "recv", "seq": 0, "started_ns": 0, "over_ns": 0, "status": None}
    assert entry(peer=2, **waiting)["collective_seq_id"] == -5
    anybody = entry(peer=ANY_PEER, **waiting)
    assert anybody["process_group"] == ("0 rank 1 to rank 1", "default_pg")


def test_records_of_unknown_communicators_are_left_out() -> None:
    assert trace(record(comm=3))["entries"] == []
