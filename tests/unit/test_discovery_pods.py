# SPDX-License-Identifier: Apache-2.0
"""What a pod really got, in each situation that misled its users: tests/fixtures/pods has them."""

from pathlib import Path

import pytest
from pod_scenarios import NAMES, answer, load, seen, write


@pytest.mark.parametrize("name", NAMES)
def test_the_pod_gets_what_it_was_given(name: str) -> None:
    found, expected = seen(name).answer, load(name)["expect"]
    nics = {
        each.nic.name: {"port": each.port}
        | ({"gid": each.gid.index} if each.gid else {})
        | ({"network": each.network} if each.network else {})
        for each in found.allocation.nics
    }
    told = "\n".join(map(str, found.complaints))
    assert nics == expected.get("nics", {}), told
    assert [each.gpu.uuid for each in found.allocation.gpus] == expected.get("gpus", []), told
    others = {nic.name: why for nic, why in found.allocation.others}
    assert list(others) == expected.get("others", []), others
    assert found.allocation.namespaces == expected.get("namespaces", "")
    assert found.ids == sorted(expected.get("complaints", [])), told


@pytest.mark.parametrize("name", NAMES[::10])
def test_files_on_disk_give_the_same(name: str, tmp_path: Path) -> None:
    found = answer(write(load(name), tmp_path))
    assert (found.devices, found.ids) == (seen(name).answer.devices, seen(name).answer.ids)


def test_there_are_scenarios() -> None:
    assert len(NAMES) >= 70
