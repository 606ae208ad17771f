"""Guests for tests that run on this machine, and reach into them."""

from collections.abc import Iterator

import pytest
from vm_guest import Guest, two_hosts
from vm_setup import UnavailableError, find


@pytest.fixture
def hosts() -> Iterator[tuple[Guest, Guest]]:
    """Two guests on one cable, new for each test: tests may cut their power."""
    try:
        find()
    except UnavailableError as why:
        pytest.skip(f"no guests on this machine: {why}")
    with two_hosts() as guests:
        yield guests
