"""What can be wrong with a machine or a pod, by id: stable, for scripts and the doctor."""

from rdmatrain.discovery.model import Complaint

# Sorted. The text of a complaint says what was seen; this says what it means.
MEANING = {
    "unreadable": "a file, variable or probe has content that cannot be parsed; it was left out",
}


def complaint(what: str, source: str, text: str) -> Complaint:
    """Make a complaint; ``what`` is a key of MEANING.

    Raises:
        KeyError: it is not.

    """
    MEANING[what]
    return Complaint(what, source, text)
