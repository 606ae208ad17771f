# SPDX-License-Identifier: Apache-2.0
"""NCCL's reader of topology files, with its limits, written anew from its rules: for tests.

It reads character by character as NCCL does, so that what other XML readers forgive is an error:
a declaration, a tab, two spaces between attributes.
"""

import re
from dataclasses import dataclass, field

# Of NCCL and RCCL the smaller ones.
MAX_STR, MAX_ATTRIBUTES, MAX_CHILDREN, MAX_NODES = 255, 16, 32, 256
CHILDREN = {
    "": {"system"},
    "system": {"cpu"},
    "cpu": {"pci", "nic"},
    "pci": {"pci", "gpu", "nic", "pcilink"},
    "nic": {"net"},
    "gpu": {"nvlink", "xgmi", "c2c"},
}
REQUIRED = {"system": {"version"}, "cpu": {"numaid"}, "pci": {"busid", "class"}, "net": {"name"}}


@dataclass
class Element:
    """An element of the file."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Element]" = field(default_factory=list)

    def all(self) -> "list[Element]":
        return [self, *(e for child in self.children for e in child.all())]


class Reader:
    """Reads a file or fails an assertion."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.nodes = 0

    def read(self) -> Element:
        root = Element("")
        self.children(root)
        (system,) = root.children
        addresses = [e.attributes["busid"] for e in system.all() if e.name == "pci"]
        assert len(addresses) == len(set(addresses)), "the same device twice"
        numa = [int(e.attributes["numaid"]) for e in system.children]
        assert len(numa) == len(set(numa)), "the same node twice"
        return system

    def char(self) -> str:
        assert self.at < len(self.text), "unexpected end"
        self.at += 1
        return self.text[self.at - 1]

    def token(self, value: bool) -> tuple[str, str, str]:
        """Return a name, its value and what came after."""
        name = ""
        while True:
            char = self.char()
            if char == "=":
                assert value, f"unexpected value of {name}"
                assert self.char() == '"', "a value without quotes"
                end = self.text.index('"', self.at)
                text, self.at = self.text[self.at : end], end + 1
                assert len(text) < MAX_STR - 1, "a value that is too long"
                assert not set(text) & set("&<>\n"), "NCCL decodes no entities"
                return name, text, self.char()
            if char in " >/\n\r":
                return name, "", char
            name += char
            assert len(name) < MAX_STR, "a name that is too long"

    def children(self, parent: Element) -> None:
        while True:
            while self.text[self.at : self.at + 1] in {" ", "\n"}:
                self.at += 1
            if self.at == len(self.text):
                assert not parent.name, f"{parent.name} is not closed"
                return
            assert self.char() == "<", "something between elements"
            name, _, after = self.token(value=False)
            if not name and after == "/":
                name, _, after = self.token(value=False)
                assert (name, after) == (parent.name, ">"), "wrong end"
                return
            self.element(parent, name, after)

    def element(self, parent: Element, name: str, after: str) -> None:
        assert name in CHILDREN.get(parent.name, set()), f"{name} in {parent.name}"
        self.nodes += 1
        assert self.nodes <= MAX_NODES, "too many nodes"
        each = Element(name)
        parent.children.append(each)
        assert len(parent.children) <= MAX_CHILDREN, "too many children"
        while after == " ":
            key, text, after = self.token(value=True)
            assert re.fullmatch("[a-z_]+", key)
            assert key not in each.attributes
            each.attributes[key] = text
        assert len(each.attributes) <= MAX_ATTRIBUTES
        check(each)
        if after == "/":
            assert self.char() == ">"
            return
        assert after == ">"
        self.children(each)


def check(each: Element) -> None:
    """Look at values as NCCL reads them."""
    assert REQUIRED.get(each.name, set()) <= set(each.attributes)
    for key, text in each.attributes.items():
        if key == "busid":
            assert re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", text)
        if key == "affinity":
            assert re.fullmatch(r"[0-9a-f]{8}(,[0-9a-f]{8}){0,31}", text)
        if key == "class":
            assert re.fullmatch("0x[0-9a-f]{6}", text)
        if key == "link_speed":
            assert re.fullmatch(r"[0-9.]+ GT/s( PCIe)?", text)
        if key in {"numaid", "link_width", "version"}:
            int(text)


def parents(system: Element) -> dict[str, str]:
    """Return what each PCI device is below: another one, or the number of a NUMA node."""
    found = {}
    for each in system.all():
        above = each.attributes.get("busid") or each.attributes.get("numaid", "")
        found |= {e.attributes["busid"]: above for e in each.children if e.name == "pci"}
    return found
