"""Guests for tests that run on this machine, and reach into them."""

from collections.abc import Iterator

import pytest
from vm_guest import Guest, two_hosts
from vm_setup import UnavailableError, find


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[Guest, Guest]]:
    """Two guests on one cable, for all tests, as they boot slowly: the last one cuts the power."""
    try:
        find()
    except UnavailableError as why:
        pytest.skip(f"no guests on this machine: {why}")
    with two_hosts() as guests:
        yield guests
