# SPDX-License-Identifier: Apache-2.0
"""The drawing is well-formed, has everything once, and puts devices inside their boxes."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from fake_survey import GPUS, OWN, SURVEY, gpu, nic

from rdmatrain.discovery.model import Distance, Machine
from rdmatrain.discovery.pod_model import Pair
from rdmatrain.discovery.survey import Survey
from rdmatrain.topo.svg import topology_svg

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def drawn(survey: Survey) -> ElementTree.Element:
    return ElementTree.fromstring(topology_svg(survey))


def box(rect: ElementTree.Element) -> Box:
    x, y, width, height = (float(rect.get(name, 0)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def within(inner: Box, outer: Box) -> bool:
    return (inner[0] >= outer[0] and inner[1] >= outer[1]
            and inner[2] <= outer[2] and inner[3] <= outer[3])  # fmt: skip


def boxes(root: ElementTree.Element, style: str) -> list[Box]:
    return [box(rect) for rect in root.iter(f"{SVG}rect") if rect.get("class") == style]


def chips(root: ElementTree.Element) -> dict[str, Box]:
    """The box of each device by its name."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        rect, name = group.find(f"{SVG}rect"), group.findtext(f"{SVG}text")
        assert rect is not None and name is not None
        found[name] = box(rect)
    return found


def test_each_device_is_in_the_box_of_its_numa_node_and_none_overlap() -> None:
    root = drawn(SURVEY)
    left, right = boxes(root, "numa")
    found = chips(root)
    assert set(found) == {"GPU0", "GPU1", "mlx5_0", "mlx5_2", "mlx5_3"}
    for name, place in found.items():
        is_left = name in {"GPU0", "mlx5_0", "mlx5_2"}
        assert (within(place, left), within(place, right)) == (is_left, not is_left)
    places = list(found.values())
    for one in places:
        assert within(one, box(next(root.iter(f"{SVG}rect"))))
        apart = [
            o
            for o in places
            if o[0] >= one[2] or o[2] <= one[0] or o[1] >= one[3] or o[3] <= one[1]
        ]
        assert len(apart) == len(places) - 1
    # The GPU's NIC has a bridge of its own, inside the switch.
    assert len([place for place in boxes(root, "bridge") if within(found["mlx5_2"], place)]) == 3
    assert len([place for place in boxes(root, "bridge") if within(found["GPU0"], place)]) == 2


def test_a_line_joins_each_gpu_to_its_own_nics_in_the_colour_of_the_distance() -> None:
    root = drawn(SURVEY)
    found = chips(root)
    lines = [line for line in root.iter(f"{SVG}line") if line.get("class")]
    ends = []
    for line in lines:
        x1, y1, x2, y2 = (float(line.get(name, 0)) for name in ("x1", "y1", "x2", "y2"))
        touched = [
            name
            for x, y in ((x1, y1), (x2, y2))
            for name, place in found.items()
            if place[0] <= x <= place[2] and y in (place[1], place[3])
        ]
        ends.append((*touched, line.get("class"), line.get("stroke")))
    near, far = ends[0][3], ends[1][3]
    assert near != far
    assert ends == [
        ("GPU0", "mlx5_2", "own", near),
        ("GPU1", "mlx5_2", "own", far),
        ("GPU1", "mlx5_3", "more", far),
    ]
    # From the side of the GPU that looks at the NIC: here that is above it.
    assert float(lines[1].get("y1", 0)) == found["GPU1"][1]
    assert float(lines[1].get("y2", 0)) == found["mlx5_2"][3]
    assert lines[1].findtext(f"{SVG}title") == "GPU1 - mlx5_2  SYS: nothing nearer"
    legend = [line.get("stroke") for line in root.iter(f"{SVG}line") if not line.get("class")]
    assert legend == [near, far]


def test_a_nic_of_others_is_grey_and_tooltips_have_the_details() -> None:
    root = drawn(SURVEY)
    assert boxes(root, "other") == [chips(root)["mlx5_0"]]
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "mlx5_0  0000:0c:00.0" in titles
    assert any("VF of 0000:0c:00.0, port 1 Ethernet 400 Gbit/s" in str(title) for title in titles)


def test_any_name_is_escaped() -> None:
    evil = '</text><script>alert("1")</script>&\x00\x1b\udcff\ufffe'
    odd = replace(OWN, name=evil, path=(evil, "0000:0c:00.2"), netdevs=(evil,))
    machine = Machine(evil, gpus=(replace(gpu(0), name=evil, pci=evil),), nics=(odd,))
    survey = Survey(machine, pairs=(Pair(machine.gpus[0], odd, (), Distance.SYS, evil),))
    text = topology_svg(survey)
    root = ElementTree.fromstring(text)
    assert root.find(f".//{SVG}script") is None
    assert text.isprintable() or all(line.isprintable() for line in text.split("\n"))
    assert r'</text><script>alert("1")</script>&\x00\x1b\udcff\ufffe' in [
        title.text for title in root.iter(f"{SVG}title")
    ]


@pytest.mark.parametrize("many", [0, 1, 5, 70])
def test_any_number_of_devices_is_drawn(many: int) -> None:
    nics = tuple(nic(f"n{place}", f"p{place}", "pci0000:00") for place in range(many))
    root = drawn(Survey(Machine("x", gpus=GPUS, nics=nics)))
    assert len(chips(root)) == many + 2
