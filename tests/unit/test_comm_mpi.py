# SPDX-License-Identifier: Apache-2.0
"""Where the store of an MPI job listens."""

import pytest

from rdmatrain.comm import mpi
from rdmatrain.errors import BootstrapError

WAYS = {"far": "10.0.0.5", "far6": "fd00::5", "here": "127.0.0.1", "here6": "::1"}


@pytest.fixture(autouse=True)
def ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "route_from", lambda name: WAYS.get(name, ""))
    monkeypatch.delenv("RDMATRAIN_ADDR", raising=False)


@pytest.mark.parametrize(
    ("names", "address"),
    [
        ([], "127.0.0.1"),
        (["here", "far"], "10.0.0.5"),
        (["here", "here", "far6"], "fd00::5"),
        (["far", "unknown"], "10.0.0.5"),
        (["here", "unknown", "far"], "10.0.0.5"),
    ],
)
def test_the_way_to_another_host_says_where(names: list[str], address: str) -> None:
    assert mpi._address(names) == address


def test_the_setting_wins_between_hosts_and_not_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMATRAIN_ADDR", "192.0.2.9")
    assert mpi._address(["here", "far"]) == "192.0.2.9"
    assert mpi._address([]) == "127.0.0.1"


def test_names_that_lead_nowhere_are_told() -> None:
    with pytest.raises(BootstrapError, match=r"\(here, here6, unknown\).*RDMATRAIN_ADDR"):
        mpi._address(["here", "here6", "unknown", "here6"])
