"""Fixtures of the contract tests: one body, every transport, see group.LISTENS."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from group import REAL, TRANSPORTS, Group


@pytest.fixture
def connect() -> Iterator[Callable[..., Group]]:
    """Makes groups: connect(transport, world, ...). They are closed after the test."""
    groups: list[Group] = []

    def make(*args, **kwargs) -> Group:
        groups.append(Group(*args, **kwargs))
        return groups[-1]

    yield make
    for group in groups:
        group.close()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=REAL)
def real_transport(request: pytest.FixtureRequest) -> str:
    """Those that join processes, and so check who is there."""
    return request.param


@pytest.fixture
def group(connect, transport) -> Callable[..., Group]:
    """group(world, ...): ranks that are joined by the transport under test."""
    return partial(connect, transport)
