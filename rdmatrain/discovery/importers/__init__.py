"""Reads machines from files of other tools: one module a kind, told apart by content.

The path to a device is that of sysfs in files of hwloc. In NCCL's it begins at a NUMA node and has
one entry for a switch (:attr:`Machine.collapsed`), ResourceSlices know its root and itself, and a
matrix has no paths: it states distances.
"""

from collections.abc import Sequence
from typing import Any

from rdmatrain.discovery.importers import hwloc_xml, nccl_xml, resource_slice, topo_matrix
from rdmatrain.discovery.importers.resource_slice import merge
from rdmatrain.discovery.importers.xml_tree import parse_xml
from rdmatrain.discovery.model import Machine
from rdmatrain.discovery.yaml_text import load_documents
from rdmatrain.errors import SettingError

__all__ = ["merge", "read_file"]

MAX_CHARACTERS = 64 << 20
_UNDERSTOOD = (
    "what is understood: topology XML of NCCL and RCCL, XML of hwloc (lstopo --of xml), the text "
    "of nvidia-smi topo -m, ResourceSlices in YAML or JSON, and what rdmatrain topo --dump writes"
)
# What people have at hand beside those.
_OTHER_XML = {
    "graphs": "the graphs of NCCL_GRAPH_DUMP_FILE; NCCL_TOPO_DUMP_FILE writes the topology",
    "nvidia_smi_log": "the output of nvidia-smi -q -x; nvidia-smi topo -m shows the topology",
    "list": "the output of lshw",
    "domain": "a libvirt domain",
}


def read_file(text: str, name: str) -> Machine:
    """Return the machine that a file describes, whatever kind of file it is.

    Parts that cannot be read are complaints of the machine.

    Args:
        text: its content.
        name: what to call it in errors and complaints.

    Raises:
        SettingError: it is of no kind that is understood, or broken as a whole.

    """
    if len(text) > MAX_CHARACTERS:
        raise SettingError(f"{name} has {len(text)} characters, more than {MAX_CHARACTERS}")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise SettingError(f"{name} is empty; {_UNDERSTOOD}")
    if text.lstrip().startswith("<"):
        return _read_xml(text, name)
    if topo_matrix.is_matrix(text):
        return topo_matrix.read(text, name)
    try:
        documents = load_documents(text)
    except ValueError as error:
        raise SettingError(
            f"{name} is of no kind that is understood, nor YAML: {error}; {_UNDERSTOOD}"
        ) from None
    if resource_slice.are_slices(documents):
        return resource_slice.read(documents, name)
    raise SettingError(f"{name} looks like {_describe(documents)}; {_UNDERSTOOD}")


def _read_xml(text: str, name: str) -> Machine:
    # A declaration must be at the very beginning; the lines before it still count.
    content = text.lstrip()
    first_line = 1 + text[: -len(content)].count("\n")
    root = parse_xml(content, name, first_line)
    if root.tag == "system" and any(child.tag in nccl_xml.PARTS for child in root.children):
        return nccl_xml.read(root, name)
    if root.tag == "topology":
        return hwloc_xml.read(root, name)
    known = _OTHER_XML.get(root.tag, f"XML with the root <{root.tag}>")
    raise SettingError(f"{name} is {known}; {_UNDERSTOOD}")


def _describe(documents: Sequence[Any]) -> str:
    first = documents[0] if documents else None
    if not isinstance(first, dict):
        return "text"
    kind = first.get("kind") or first.get("schema")
    return f"a document of kind {kind!r}" if isinstance(kind, str) else "YAML or JSON"
