"""Names that Kubernetes takes: each function says what would be one, or nothing if it is one."""

import re
from ipaddress import IPv4Network

LABEL = 63
SUBDOMAIN = 253
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# A registry with its port, a path, then a tag or a digest.
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}(#\d+-\d+)?", re.ASCII)


def label(text: str, most: int = LABEL) -> str:
    """Of a namespace, or a queue."""
    if re.fullmatch(_DNS_LABEL, text, re.ASCII) and len(text) <= most:
        return ""
    return f"give at most {most} of a-z, 0-9 and -, no - first or last"


def service(text: str) -> str:
    """Of a Service, and of what it is called like: no digit comes first."""
    return "let it begin with a letter" if text[:1].isdigit() else label(text)


def subdomain(text: str) -> str:
    """Of most objects: labels with dots between them."""
    if _SUBDOMAIN.fullmatch(text) and len(text) <= SUBDOMAIN:
        return ""
    return f"give at most {SUBDOMAIN} of a-z, 0-9, - and ., a letter or digit first and last"


def in_namespace(text: str) -> str:
    """Of an object of another namespace: ``namespace/name``; or of this one."""
    namespace, slash, name = text.rpartition("/")
    return (label(namespace) if slash else "") or subdomain(name)


def qualified(text: str) -> str:
    """Of a label or an annotation: ``domain/name``, or a name alone."""
    domain, slash, name = text.rpartition("/")
    wrong = len(name) > LABEL or not _QUALIFIED.fullmatch(name)
    if wrong or (slash and subdomain(domain)):
        return "give DOMAIN/NAME, the name of at most 63 letters, digits, -, _ and ."
    return ""


def resource(text: str) -> str:
    """Of what a device plugin hands out: a qualified name with a domain of its own."""
    domain, slash, _ = text.rpartition("/")
    if not slash or domain.endswith("kubernetes.io") or text.startswith("requests."):
        return "give DOMAIN/NAME as the device plugin announces it, such as nvidia.com/gpu"
    return qualified(text)


def label_value(text: str) -> str:
    """Of the value of a label."""
    if not text or (len(text) <= LABEL and _QUALIFIED.fullmatch(text)):
        return ""
    return "give at most 63 letters, digits, -, _ and ., a letter or digit first and last"


def taint(text: str) -> str:
    """Of a taint, as kubectl writes it; what it leaves out is any."""
    rest, colon, effect = text.partition(":")
    key, _, value = rest.partition("=")
    if (colon and effect not in EFFECTS) or qualified(key) or label_value(value):
        return f"give KEY=VALUE:EFFECT, or less of it; the effects are {', '.join(EFFECTS)}"
    return ""


def variable(text: str) -> str:
    """Of an environment variable that every shell keeps."""
    return "" if _VARIABLE.fullmatch(text) else "give letters, digits and _, no digit first"


def image(text: str) -> str:
    """Of an image."""
    if not text:
        return "name the image that has rdmatrain and your script"
    if "://" in text:
        return "leave out the part before ://"
    return "" if _IMAGE.fullmatch(text) else "give REGISTRY/NAME:TAG, or NAME@sha256:DIGEST"


def subnet(text: str) -> str:
    """Of a network of IPv4 with its length, all bits after which are 0."""
    try:
        IPv4Network(text)
    except ValueError:
        return "give a network of IPv4 with its length, such as 10.1.0.0/16"
    return "" if "/" in text else "give its length too, such as 10.1.0.0/16"


def interface(text: str) -> str:
    """Of a physical function, with the range of its virtual functions: ``eth0#0-3``."""
    return "" if _INTERFACE.fullmatch(text) else "give an interface, such as eth0 or eth0#0-3"
