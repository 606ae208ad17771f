# SPDX-License-Identifier: Apache-2.0
"""Whatever a host calls itself, it may join, and its name can be shown."""

import pytest

from rdmatrain.launcher.facts import host_name
from rdmatrain.launcher.messages import Join
from rdmatrain.launcher.peer import why_not


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("pod-0.svc.example", "pod-0.svc.example"),
        ("(none)", "-none-"),  # the kernel's own, where nobody gave it one
        ("a b\n\udcff", "a-b--"),
        ("", "localhost"),
    ],
)
def test_a_name_of_odd_letters_is_made_plain(
    monkeypatch: pytest.MonkeyPatch, own: str, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: own)
    assert host_name() == name
    assert why_not(Join(host=host_name(), nproc=1)) == ""
