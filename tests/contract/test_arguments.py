"""Wrong arguments: ValueError or TypeError that says what is wrong, and never a crash."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from group import LISTENS, REAL, Group, call

import rdmatrain
from rdmatrain import _core
from rdmatrain.errors import CommError

ROOT = str(Path(rdmatrain.__file__).parents[1])
TOKEN = bytes(16)
A4 = np.zeros(4, np.float32)
WRONG = (ValueError, TypeError)


@pytest.fixture(scope="module")
def pair():
    """Two connected ranks; wrong calls leave them as they were."""
    group = Group("shm", 2)
    yield group
    group.run(lambda comm, _: call(comm, "barrier"))
    group.close()


def frozen(data):
    data = data.copy()
    data.flags.writeable = False
    return data


def run_script(code):
    """Runs code in a process of its own, which may crash."""
    preamble = (
        "import os, threading\nimport numpy as np\nfrom rdmatrain import _core\n"
        "def pair():\n"
        "    comms = [_core.Comm(r, 2, bytes(16)) for r in range(2)]\n"
        "    wires = [comm.listen('shm') for comm in comms]\n"
        "    return comms, [('shm', wire, 'here') for wire in wires]\n"
        "def connected():\n"
        "    comms, peers = pair()\n"
        "    threads = [threading.Thread(target=c.connect, args=(peers, 9)) for c in comms]\n"
        "    [thread.start() for thread in threads]\n"
        "    [thread.join() for thread in threads]\n"
        "    return comms, peers\n"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", preamble + code]
    done = subprocess.run(
        command, env={"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 0, TOKEN), "world size 0"),
        ((0, 4097, TOKEN), "world size 4097"),
        ((2, 2, TOKEN), "rank 2 is not below world size 2"),
        ((0, 2, bytes(15)), "token must have 16 bytes"),
        ((0, 2, bytes(17)), "token must have 16 bytes"),
        ((0, 2, b""), "token must have 16 bytes"),
        ((0, 2, "a token as text.."), "bytes-like"),
        ((0, 2, TOKEN, 0, {"chunk": 100}), "not a multiple of 64"),
        ((0, 2, TOKEN, 0, {"chunk": 0}), "not a multiple of 64"),
        ((0, 2, TOKEN, 0, {"chunk": 1 << 40}), "not a multiple of 64"),
        ((0, 2, TOKEN, 0, {"block": 1}), "block=1 is less"),
        ((0, 2, TOKEN, 0, {"chunks": 64}), 'no "chunks"'),
        ((0, 2, TOKEN, 0, {"chunk": "64"}), "int"),
        ((0, 2, TOKEN, 0, ["chunk"]), "dict"),
        (("0", 2, TOKEN), "int"),
        ((0.5, 2, TOKEN), "int"),
        ((None, 2, TOKEN), "int"),
        ((), "argument"),
    ],
)
def test_a_communicator_with_wrong_settings_is_refused(arguments, text):
    with pytest.raises(WRONG, match=text):
        _core.Comm(*arguments)


@pytest.mark.parametrize("rank", [-1, 1 << 32, 1 << 70])
def test_a_rank_outside_of_its_type_is_refused(rank):
    with pytest.raises((*WRONG, OverflowError)):
        _core.Comm(rank, 2, TOKEN)


@pytest.mark.parametrize("world", [-1, (1 << 32) + 1, 1 << 70])
def test_a_world_size_outside_of_its_type_is_refused(world):
    with pytest.raises((*WRONG, OverflowError)):
        _core.Comm(0, world, TOKEN)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("carrier pigeon",), "carrier pigeon"),
        (("",), "transport"),
        (("tcp", None), "not a numeric"),
        (("tcp", "localhost"), "localhost"),
        (("tcp", "1.2.3.4.5"), "1.2.3.4.5"),
        (("fake", "nonsense"), "nonsense"),
        (("fake", "speed=9"), "speed=9"),
        (("fake", "slots=99"), "slots=99"),
        ((7,), "str"),
        (("shm\0", None), "null character"),
    ],
)
def test_a_transport_that_cannot_be_opened_is_refused(arguments, text):
    comm = _core.Comm(0, 2, TOKEN)
    with pytest.raises(WRONG, match=text):
        comm.listen(*arguments)
    comm.close()


@pytest.mark.parametrize("transport", REAL)
def test_a_transport_is_opened_once(transport):
    comm = _core.Comm(0, 2, TOKEN)
    (listen,) = LISTENS[transport]
    comm.listen(*listen)
    with pytest.raises(ValueError, match="already open"):
        comm.listen(*listen)
    comm.close()


def test_an_address_of_another_machine_cannot_be_listened_on():
    comm = _core.Comm(0, 2, TOKEN)
    with pytest.raises(CommError, match="bind or listen"):
        comm.listen("tcp", "192.0.2.1")
    comm.close()


@pytest.mark.parametrize(
    ("peers", "timeout"),
    [
        ([], 1),
        ([("shm", b"", "me")], 1),
        ([("shm", b"", "me")] * 3, 1),
        (None, 1),
        (7, 1),
        ([("shm", b"")] * 2, 1),
        ([("shm", "text", "me")] * 2, 1),
        ([["shm", b"", "me"]] * 2, 1),
        (["shm"] * 2, 1),
        ([None] * 2, 1),
        ([("shm", b"x" * 129, "me")] * 2, 1),
        ([("tcp", b"x", "me")] * 2, 1),
        ([("unknown", b"x", "me")] * 2, 1),
        ([("shm", b"", "me")] * 2, 1),
        ([("shm", b"x" * 128, "me")] * 2, 1),
        ([("shm", b"x", "me")] * 2, -1),
        ([("shm", b"x", "me")] * 2, float("nan")),
        ([("shm", b"x", "me")] * 2, "soon"),
    ],
)
def test_peers_that_make_no_sense_are_refused(peers, timeout):
    comm = _core.Comm(1, 2, TOKEN)
    comm.listen("shm")
    with pytest.raises(WRONG) as caught:
        comm.connect(peers, timeout)
    assert str(caught.value)
    comm.close()


@pytest.mark.parametrize(
    ("arguments", "kwargs", "text"),
    [
        (("all_sum",), {"out": A4}, 'unknown operation "all_sum"'),
        (("a refused call",), {}, "unknown operation"),
        (("all_reduce", "float99"), {"out": A4}, 'unknown dtype "float99"'),
        (("all_reduce", "float32", "XOR"), {"out": A4}, 'unknown reduction "XOR"'),
        (("all_reduce", "float32"), {}, "all_reduce takes"),
        (("all_reduce", "float32"), {"in_": A4}, "all_reduce takes"),
        (("barrier",), {"out": A4}, "barrier takes no input and no output"),
        (("broadcast", "float32"), {"in_": A4, "out": A4}, "broadcast takes no input"),
        (("send", "float32"), {"out": A4, "peer": 1}, "send takes an input"),
        (("recv", "float32"), {"in_": A4, "peer": 1}, "recv takes no input"),
        (("all_gather", "float32"), {"out": A4}, "all_gather takes an input"),
        (("all_reduce", "float32"), {"in_": A4, "out": A4[:3]}, "16 bytes in, 12 bytes out"),
        (("all_gather", "float32"), {"in_": A4, "out": A4}, "16 bytes in, 16 bytes out"),
        (
            ("all_gather", "float32"),
            {"in_": A4, "out": np.zeros(9, "f4")},
            "36 bytes is not 2 shards",
        ),
        (("reduce_scatter", "float32"), {"in_": A4, "out": A4}, "16 bytes in, 16 bytes out"),
        (("all_reduce", "float32"), {"out": bytearray(5)}, "float32"),
        (("send", "float64"), {"in_": np.zeros(3, "f4"), "peer": 1}, "float64"),
        (("broadcast", "float32"), {"out": A4, "peer": 2}, "rank 2 is not below world size 2"),
        (("send", "float32"), {"in_": A4, "peer": 7}, "rank 7 is not below world size 2"),
        (("send", "float32"), {"in_": A4, "peer": 0}, "rank 0 with itself"),
        (("barrier",), {"timeout": -1}, "timeout"),
        (("barrier",), {"timeout": float("nan")}, "timeout"),
        (("barrier",), {"timeout": "long"}, "real number"),
        (("all_reduce", "float32"), {"out": "text"}, "bytes-like"),
        (("all_reduce", "float32"), {"out": [1.0, 2.0]}, "bytes-like"),
        (("all_reduce", "float32"), {"out": 7}, "bytes-like"),
        (("all_reduce", "float32", "SUM", A4), {}, "positional"),
        (("all_reduce", None), {"out": A4}, "str"),
        ((), {}, "argument"),
        (("barrier",), {"speed": 9}, "speed"),
    ],
)
def test_a_wrong_call_is_refused_and_says_why(pair, arguments, kwargs, text):
    with pytest.raises(WRONG, match=text):
        pair.comms[0].post(*arguments, **kwargs)


@pytest.mark.parametrize(
    "out",
    [frozen(A4), bytes(16), np.zeros((4, 4), np.float32)[:, 1], np.zeros((2, 3), np.float32).T],
    ids=["frozen", "bytes", "column", "transposed"],
)
def test_an_output_that_cannot_be_written_in_one_piece_is_refused(pair, out):
    with pytest.raises((*WRONG, BufferError)) as caught:
        pair.comms[0].post("all_reduce", "float32", out=out)
    assert str(caught.value)


def test_an_input_that_is_not_contiguous_is_refused(pair):
    with pytest.raises((*WRONG, BufferError), match="contiguous"):
        pair.comms[0].post("all_reduce", "float32", in_=np.zeros(8, "f4")[::2], out=A4.copy())


@pytest.mark.parametrize("peer", [-1, 1 << 32, 1 << 70])
def test_a_peer_outside_of_its_type_is_refused(connect, peer):
    comm = connect("shm", 2).comms[1]
    with pytest.raises((*WRONG, OverflowError)):
        comm.post("broadcast", "float32", out=A4.copy(), peer=peer, timeout=0.2).wait()


@pytest.mark.parametrize("tag", [1 << 31, -(1 << 31) - 1])
def test_a_tag_outside_of_its_type_is_refused(pair, tag):
    with pytest.raises((*WRONG, OverflowError)):
        pair.comms[0].post("send", "float32", in_=A4, peer=1, tag=tag)


def test_the_transport_of_a_rank_outside_of_the_group_is_none(pair):
    assert pair.comms[0].transport(0) == "self"
    assert pair.comms[0].transport(1) == "shm"
    assert pair.comms[0].transport(2) == "none"
    with pytest.raises(ValueError, match="not between"):
        pair.comms[0].transport(1 << 32)


def test_works_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        _core.Work()


def test_a_call_on_a_closed_communicator_says_so():
    comm = _core.Comm(0, 1, TOKEN)
    comm.close()
    calls = [
        lambda: comm.post("barrier"),
        lambda: comm.connect([("shm", b"", "me")], 1),
        lambda: comm.listen("shm"),
        lambda: comm.abort("again"),
        lambda: comm.transport(0),
        comm.detach,
    ]
    for attempt in calls:
        with pytest.raises(CommError, match="closed or detached") as caught:
            attempt()
        assert caught.value.status == "CLOSED"


# Each in a process of its own: what it does wrong might crash it.
CRASHES = {
    "posting before connecting": """
comms, peers = pair()
try:
    comms[0].post("barrier", timeout=0.2).wait()
except Exception as error:
    assert "connect" in str(error), error
else:
    raise SystemExit("it succeeded")
""",
    "connecting twice": """
comms, peers = connected()
try:
    comms[0].connect(peers, 0.2)
except Exception as error:
    assert "connect" in str(error), error
else:
    raise SystemExit("it succeeded")
works = [comm.post("barrier", timeout=5) for comm in comms]
[work.wait() for work in works]
""",
    "connecting again after a failure": """
comms, peers = pair()
for _ in range(2):
    try:
        comms[0].connect(peers, 0.1)
    except Exception as error:
        print(error)
    else:
        raise SystemExit("it succeeded")
comms[0].close()
""",
    "listening after connecting": """
comms, peers = connected()
try:
    comms[0].listen("tcp", "127.0.0.1")
except Exception as error:
    print(error)
works = [comm.post("barrier", timeout=5) for comm in comms]
[work.wait() for work in works]
""",
    "closing inside of an argument": """
comms, peers = connected()
class Closing:
    def __float__(self):
        comms[0].close()
        return 1.0
try:
    comms[0].post("barrier", timeout=Closing())
except Exception as error:
    assert "closed" in str(error), error
else:
    raise SystemExit("it succeeded")
""",
    "closing inside of an argument of connect": """
comms, peers = pair()
class Closing:
    def __float__(self):
        comms[0].close()
        return 0.2
try:
    comms[0].connect(peers, Closing())
except Exception as error:
    assert "closed" in str(error), error
else:
    raise SystemExit("it succeeded")
""",
    "closing after a peer did not come": """
for transport, arg in (("shm", None), ("tcp", "127.0.0.1"), ("fake", None)):
    comms = [_core.Comm(r, 2, bytes(16)) for r in range(2)]
    peers = [(transport, comm.listen(transport, arg), "here") for comm in comms]
    try:
        comms[0].connect(peers, 0.1)
    except Exception as error:
        assert "rank 1" in str(error) or transport == "fake", error
    else:
        raise SystemExit("it succeeded")
    comms[0].close()
    comms[1].close()
""",
    "a world of one without connecting": """
comm = _core.Comm(0, 1, bytes(16))
try:
    comm.post("all_reduce", "float32", "AVG", out=np.ones(5, np.float32), timeout=5)
except ValueError as error:
    assert "not connected" in str(error)
else:
    raise AssertionError("posted")
""",
    "counts whose sum in bytes wraps": """
comms, peers = connected()
for counts in ([0, 1 << 61], [1, (1 << 61) - 1], [(1 << 63) - 1] * 2):
    try:
        comms[0].post("all_to_all", "float64", in_=b"", out=bytearray(), in_counts=counts,
                      out_counts=[counts[0], 0], timeout=1).wait()
    except ValueError as error:
        assert "a buffer of 0 bytes" in str(error), error
    else:
        raise AssertionError("posted")
""",
    "ending the process with everything open": """
comms, peers = connected()
data = np.ones(5, np.float32)
works = [comm.post("all_reduce", "float32", out=data, timeout=1) for comm in comms[:1]]
""",
}


@pytest.mark.parametrize("what", CRASHES)
def test_misuse_does_not_crash(what):
    run_script(CRASHES[what])
