"""What the core tells of the ports that join two ranks: the GIDs and the MTU that are used."""

import os
from functools import partial
from ipaddress import IPv6Address

import numpy as np
import pytest
from group import CONNECT_S, call, on_fake, results, run_threads

from rdmatrain import _core

# Of the fake's device N: its address by index, as csrc/ibv/ibv_fake.h has them.
ADDRESSES = {0: "fe80::200:ff:fe00:{}", 1: "::ffff:10.0.{}.1", 3: "fd00:0:0:{}::1"}


def gid(device, index):
    return IPv6Address(ADDRESSES[index].format(device)).packed


def rail(index, mtu, mine, theirs):
    """Of a pair that uses the same index on both sides; of which devices."""
    return {
        "gid_index": index,
        "mtu": mtu,
        "gid": gid(mine, index),
        "peer_gid": gid(theirs, index),
    }


def rails_of(comms):
    return [comm.stats()[1 - rank]["rails"] for rank, comm in enumerate(comms)]


@pytest.fixture(params=[False, True], ids=["at once", "when needed"])
def join(request):
    """join(an argument for each rank): what each is told of its rails, once they have joined."""
    comms = []

    def meet(*args):
        token = os.urandom(16)
        comms.extend(_core.Comm(rank, 2, token, lazy=request.param) for rank in range(2))
        wires = [comm.listen("verbs", arg) for comm, arg in zip(comms, args, strict=True)]
        peers = [("verbs", wire, f"thread {rank}") for rank, wire in enumerate(wires)]
        results(run_threads([partial(comm.connect, peers, CONNECT_S) for comm in comms]))
        before = rails_of(comms)
        buffers = [np.zeros(8, np.uint8) for _ in comms]
        results(
            run_threads(
                [
                    partial(call, comm, "all_reduce", out=buffer)
                    for comm, buffer in zip(comms, buffers, strict=True)
                ]
            )
        )
        assert before == ([[], []] if request.param else rails_of(comms))
        return rails_of(comms)

    yield meet
    for comm in comms:
        comm.close()


def test_a_gid_that_is_not_the_first_is_told(join):
    ours, theirs = join(on_fake("fake0/1/1,3"), on_fake("fake1/1/3"))
    assert ours == [rail(3, 4096, 0, 1)]
    assert theirs == [rail(3, 4096, 1, 0)]


def test_each_rail_has_its_own(join):
    rails = "fake{}/1/0+fake{}/1/1,3"
    ours, theirs = join(
        on_fake(rails.format(0, 1), "rtr=ENODEV@1"), on_fake(rails.format(2, 3), "mtu=2048")
    )
    assert ours == [rail(0, 2048, 0, 2), rail(3, 2048, 1, 3)]
    assert theirs == [rail(0, 2048, 2, 0), rail(3, 2048, 3, 1)]


def test_the_mtu_is_the_smaller_one_of_both_ends(join):
    ours, theirs = join(on_fake("fake0/1/1", "mtu=1024"), on_fake("fake1/1/1") + " mtu=512")
    assert ours == [rail(1, 512, 0, 1)]
    assert theirs == [rail(1, 512, 1, 0)]


def test_other_transports_have_none(connect, real_transport):
    if real_transport == "verbs":
        pytest.skip("it has rails")
    for stats in connect(real_transport, 2).run(lambda comm, _: comm.stats()):
        assert [each["rails"] for each in stats] == [[], []]
