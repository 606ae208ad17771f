# SPDX-License-Identifier: Apache-2.0
"""The drawing of how fast each pod sends to each other one."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rdmatrain.doctor.heatmap import draw, kind_of, require_drawable
from rdmatrain.errors import SettingError

HOSTS = ["train-worker-0", "train-worker-1", "odd$one$<&>"]
GBPS = [[None, 95.5, 12.25], [94.0, None, 11.5], [12.0, None, None]]


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("matplotlib", reason="drawings need matplotlib")


def texts(path: Path) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.parse(path).iter() if each.text]


def test_a_drawing_has_each_pod_and_each_number(tmp_path: Path) -> None:
    draw(HOSTS, GBPS, tmp_path / "gang.svg", "4 ranks over verbs")
    found = texts(tmp_path / "gang.svg")
    for text in (*HOSTS[:2], "95.5", "12.2", "11.5", "4 ranks over verbs", "Gbit/s"):
        assert text in found, found
    assert found.count("train-worker-0") == 2  # of a row and of a column
    assert any("odd" in text and "<&>" in text for text in found)


def test_the_same_matrix_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        draw(HOSTS, GBPS, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_png_is_one_and_large_gangs_have_no_numbers(tmp_path: Path) -> None:
    hosts = [f"a-very-long-name-of-a-namespace-and-a-job-{rank}" for rank in range(50)]
    draw(hosts, [[float(rank)] * 50 for rank in range(50)], tmp_path / "gang.png")
    assert (tmp_path / "gang.png").read_bytes().startswith(b"\x89PNG")
    draw(hosts, [[float(rank)] * 50 for rank in range(50)], tmp_path / "gang.svg")
    found = texts(tmp_path / "gang.svg")
    assert any(text.startswith("a-very-l...") and text.endswith("-job-48") for text in found)
    assert "49.0" not in found and len([t for t in found if t.startswith("a-very-l")]) == 50


@pytest.mark.parametrize("gbps", [[[None]], [[0.0]], []], ids=["nothing", "zero", "empty"])
def test_what_was_not_measured_is_drawn_as_nothing(gbps: list[list[float]], tmp_path: Path) -> None:
    draw(["alone"] * len(gbps), gbps or [[None]], tmp_path / "gang.svg")
    assert "Gbit/s" in texts(tmp_path / "gang.svg")


def test_a_name_that_is_no_drawings_is_refused(tmp_path: Path) -> None:
    assert kind_of(Path("x.PNG")) == "png"
    with pytest.raises(SettingError, match=r"ends in \.png or \.svg"):
        draw(HOSTS, GBPS, tmp_path / "gang.jpg")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot write .*No such file"):
        draw(HOSTS, GBPS, tmp_path / "gone" / "gang.svg")


def test_what_cannot_be_drawn_is_known_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_drawable(tmp_path / "gang.svg")
    (tmp_path / "folder.svg").mkdir()
    for name in ("gang.jpg", "gone/gang.svg", "folder.svg"):
        with pytest.raises(SettingError, match=name):
            require_drawable(tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.svg"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match="pip install"):
        require_drawable(tmp_path / "gang.svg")


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"pip install .rdmatrain\[doctor\]"):
        draw(HOSTS, GBPS, tmp_path / "gang.svg")
