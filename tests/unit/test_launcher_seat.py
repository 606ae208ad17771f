# SPDX-License-Identifier: Apache-2.0
import dataclasses
import socket

import pytest

from rdmatrain.launcher import seat
from rdmatrain.launcher.job import Gang
from rdmatrain.launcher.seat import MEMBER, choose, is_own

FOREIGN = "192.0.2.77"  # of a network for documentation


def gang(rank: int | None, **fields: object) -> Gang:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return Gang(max_nodes=2, node_rank=rank, port=port, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        (FOREIGN, False),
        ("2001:db8::1", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_own_addresses(address: str, own: bool) -> None:
    assert is_own(address) is own


def test_who_has_the_address_leads() -> None:
    found = choose(gang(None), [FOREIGN, "127.0.0.1"])
    assert found.listener is not None and found.address == "127.0.0.1"
    found.listener.close()
    assert choose(gang(None), [FOREIGN]) == MEMBER


def test_a_given_rank_decides() -> None:
    assert choose(gang(1), ["127.0.0.1"]) == MEMBER
    found = choose(gang(0), ["127.0.0.1"])
    assert found.listener is not None
    found.listener.close()


def test_a_port_in_use_is_another_leader_or_a_problem() -> None:
    its = gang(None)
    with socket.create_server(("127.0.0.1", its.port)):
        assert choose(its, ["127.0.0.1"]) == MEMBER
        found = choose(dataclasses.replace(its, node_rank=0), ["127.0.0.1"])
    assert found.listener is None and "another program has that port" in found.problem


def test_a_leader_whose_name_leads_elsewhere_knows_where_it_can_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seat, "source_address", lambda address: "127.0.0.1")
    found = choose(gang(0, local_addr="127.0.0.5"), [FOREIGN])
    assert (found.listener, found.elsewhere) == (None, ["127.0.0.5", "127.0.0.1"])
    monkeypatch.setattr(seat, "source_address", lambda address: "")
    found = choose(gang(0), [FOREIGN])
    assert "--local-addr" in found.problem
