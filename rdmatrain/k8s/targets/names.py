"""Names that controllers make of a job's, and how long they may be."""

from rdmatrain.discovery.claims.values import shown
from rdmatrain.errors import SettingError
from rdmatrain.k8s.spec import Spec

# Of a label of DNS, which a host name and the name of a Service are; and of a label's value.
LONGEST = 63


def check_name(spec: Spec, system: str, longest: str) -> None:
    """Refuse a job's name that is none for this system.

    Args:
        spec: of the job.
        system: what the error calls it.
        longest: of the names that it makes of the job's.

    Raises:
        SettingError: its Service or its pods could not be called so.

    """
    if not spec.name[:1].isalpha():
        raise SettingError(
            f"name: {shown(spec.name)} begins with a digit, and {system} calls a Service by it: "
            "begin it with a letter"
        )
    excess = len(longest) - LONGEST
    if excess > 0:
        raise SettingError(
            f"name: {shown(spec.name)} gives a pod of {system} the name {longest}, and {LONGEST} "
            f"characters are allowed: shorten it by {excess}"
        )
