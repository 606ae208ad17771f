"""Objects as YAML that every reader takes for the same.

YAML 1.1 reads ``0000:16:00.0`` as a number, ``on`` as true and ``1e3`` as a text; YAML 1.2 does
none of it, and other readers do some. So a text that any of them takes for something else gets
quotes.
"""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from rdmatrain.k8s.parts import Object

_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "~"])
# Numbers to any base, of 60 too; dates; also a version or an address, which quotes do not harm.
_LIKE_A_NUMBER = re.compile(r"[-+.]*[0-9][-+.:_0-9A-FXOTZa-fxotz \t]*", re.ASCII)
_SIGNED_WORD = re.compile(r"[-+]?\.?(inf|nan)", re.ASCII | re.IGNORECASE)
# As kubectl has them; all others stay where they were put.
_FIRST = ("apiVersion", "kind", "metadata", "type", "spec")
_FIRST_OF_METADATA = ("name", "namespace", "labels", "annotations")
_WIDTH = 1 << 30  # never folded: a line that is cut is hard to look for


def stream(objects: Iterable[Object]) -> str:
    """Return objects as one stream of YAML, of which each document begins with ``---``."""
    return "".join(f"---\n{document(each)}" for each in objects)


def document(thing: Object) -> str:
    """Return an object as a document of YAML."""
    ordered = _ordered(thing, _FIRST)
    if isinstance(thing.get("metadata"), dict):
        ordered["metadata"] = _ordered(thing["metadata"], _FIRST_OF_METADATA)
    text: str = yaml.dump(
        ordered, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=_WIDTH
    )
    return text


def _ordered(thing: Object, first: tuple[str, ...]) -> Object:
    known = {key: thing[key] for key in first if key in thing}
    return {**known, **thing}


class _Dumper(yaml.SafeDumper):
    """Writes what is there, without anchors, which few readers of manifests expect."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text:
        style = "|"
    elif _is_ambiguous(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_ambiguous(text: str) -> bool:
    """Tell whether some reader takes it for no text, if it is not quoted."""
    return bool(
        text.lower() in _WORDS
        or text in {"", "=", "<<"}
        or _LIKE_A_NUMBER.fullmatch(text)
        or _SIGNED_WORD.fullmatch(text)
    )


_Dumper.add_representer(str, _represent_text)
