"""YAML and JSON as text: what looks like a number stays as it was written.

YAML 1.1 reads an unquoted PCI address, ``0000:16:00.0``, as a number to the base of 60.
"""

from typing import Any

# A line of YAML takes a hundred times its length while it is read, JSON a tenth of that.
MAX_YAML = 8 << 20


def load_documents(text: str) -> list[Any]:
    """Return the documents of a YAML stream, or the one of a JSON text.

    All that is neither a mapping nor a list is a string; in JSON also a boolean or None.

    Raises:
        ValueError: it is neither; the text says where and why.

    """
    import json  # noqa: PLC0415

    if text.lstrip()[:1] in {"{", "["}:
        try:
            return [json.loads(text, parse_int=str, parse_float=str)]
        except RecursionError:
            raise ValueError("nested too deep") from None
        except ValueError:
            pass  # YAML may begin like this, too
    return _load_yaml(text)


def _load_yaml(text: str) -> list[Any]:
    if len(text) > MAX_YAML:
        raise ValueError(f"{len(text)} characters, more than {MAX_YAML} (JSON may be longer)")
    # It takes 0.02 s to import, and the start of the command line has no need of it.
    import yaml  # noqa: PLC0415

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return list(yaml.load_all(text, Loader=loader))
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeError as error:
        raise ValueError(f"bytes that are no text: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
