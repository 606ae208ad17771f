# SPDX-License-Identifier: Apache-2.0
"""A machine for pods: Podman, a network, and the image."""

from collections.abc import Iterator

import pytest
from pods_job import NETWORK, SUBNET, Machine
from pods_podman import PodmanError, UnavailableError, podman
from pods_setup import find


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    try:
        with podman() as host:
            image = find(host)
            host.run("pod", "rm", "-f", "-a")  # of a run that was killed
            host.run("network", "create", "--subnet", f"{SUBNET}.0/24", NETWORK)
            # Bridges and the like fail here, where nothing of ours can be wrong.
            host.run("run", "--rm", "--network", NETWORK, "--entrypoint", "sleep", image, "0")
            yield Machine(host, image)
    except (UnavailableError, PodmanError) as why:
        pytest.skip(f"no pods on this machine: {why}")
