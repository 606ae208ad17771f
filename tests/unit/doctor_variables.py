# SPDX-License-Identifier: Apache-2.0
"""The healthy pod with other variables, and cases that discovery complains of."""

from dataclasses import replace

from doctor_pods import HEALTHY, Changes, healthy
from memory_source import environ
from pod_scenarios import seen

from rdmatrain.discovery.complaints import complaint
from rdmatrain.doctor.model import Case, Needs


def with_variables(
    variables: dict[str, str], needs: Needs | None = None, files: Changes | None = None
) -> Case:
    """The healthy pod, whose process has these variables as well."""
    base = seen(HEALTHY).files["/proc/self/environ"]
    assert isinstance(base, str)
    # Of one name the first counts.
    own = environ(variables) + base
    return healthy({"/proc/self/environ": own, **(files or {})}, needs=needs)


def with_complaint(what: str, source: str = "SOME=1", text: str = "was seen") -> Case:
    """The healthy pod, of which discovery complains so."""
    case = healthy()
    found = replace(case.found, complaints=(complaint(what, source, text),))
    return replace(case, found=found)
