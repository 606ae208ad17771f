# SPDX-License-Identifier: Apache-2.0
"""Specs at random: each target gives objects that its cluster takes, or says in a line why not."""

from collections import Counter
from dataclasses import replace

import k8s_schemas
import k8s_specs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from k8s_spec_draws import specs, text_of
from k8s_specs import CLUSTERS, KUBERNETES, rendered

from rdmatrain.errors import SettingError
from rdmatrain.k8s.invariants import broken
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.reading import read_spec
from rdmatrain.k8s.spec import Spec

pytestmark = k8s_schemas.needs_crds
EXAMPLES = 12
# Not the phase that explains, which takes minutes.
PHASES = (Phase.generate, Phase.shrink)
# Of drawn specs, how many have to become objects: a target that refuses all of them is no target.
MOST = 0.6


def objects_or_reason(spec: Spec, name: str, version: str) -> tuple[Object, ...] | str:
    """What a user gets: the objects, or one line. Anything else is raised."""
    try:
        read = read_spec(text_of(spec), "job.yaml")
        assert read == spec
        return rendered(name, read, CLUSTERS[version]).objects
    except SettingError as error:
        reason = str(error)
        assert reason
        assert reason.isprintable(), reason
        return reason


@pytest.mark.parametrize("name", KUBERNETES)
def test_objects_are_valid_or_the_spec_is_refused_in_a_line(name: str) -> None:
    seen: Counter[str] = Counter()
    reasons = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=PHASES,
    )
    @given(spec=specs(name), version=st.sampled_from(["1.37", "1.37", *CLUSTERS]))
    def check(spec: Spec, version: str) -> None:
        if name == "podgroup" and version == "1.34":
            version = "1.37"
        found = objects_or_reason(spec, name, version)
        if isinstance(found, str):
            seen["refused"] += 1
            reasons.append(found)
            return
        seen["rendered"] += 1
        assert [error for each in found for error in k8s_schemas.errors(each, version)] == []
        assert broken(found) == []

    check()
    assert seen["rendered"] >= MOST * seen.total(), "\n".join(reasons)


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_longest_name_that_is_rendered_is_valid_and_one_more_is_refused(name: str) -> None:
    whole = k8s_specs.queued(name, k8s_specs.small(nodes=11))
    taken = {}
    for length in range(1, 64):
        try:
            found = rendered(name, replace(whole, name="a" * length)).objects
        except SettingError as error:
            assert str(error).startswith("name"), error
        else:
            taken[length] = found
    # What the system itself allows is not refused, and what it does not is.
    assert [*taken] == [*range(1, LONGEST[name] + 1)]
    found = taken[LONGEST[name]]
    assert [error for each in found for error in k8s_schemas.errors(each)] == []


LONGEST = {
    "volcano": 53,  # and -worker-10
    "trainjob": 47,  # and -node-0-10-abcde
    "pytorchjob": 54,  # and -worker-9
    "jobset": 44,  # and -workers-0-10-abcde
    "kueue": 44,
    "indexed-job": 60,  # and -10
    "podgroup": 60,
    "lws": 50,  # and -0, -0123456789 in a label
    "mpijob": 48,  # and -launcher-abcde
}


def with_network(spec: Spec, name: str) -> Spec:
    return replace(spec, network=replace(spec.network, networks=(name,)))


def refusals() -> st.SearchStrategy[tuple[str, Spec]]:
    """Specs that one text makes impossible, or unusual."""
    wild = st.text(max_size=70)
    base = k8s_specs.small()
    return st.one_of(
        wild.map(lambda text: ("name", replace(base, name=text))),
        wild.map(lambda text: ("image", replace(base, image=text))),
        wild.map(lambda text: ("namespace", replace(base, namespace=text))),
        wild.map(lambda text: ("queue", replace(base, queue=text))),
        wild.map(lambda text: ("priority", replace(base, priority=text))),
        wild.map(lambda text: ("env", replace(base, env={text: "1"}))),
        wild.map(lambda text: ("gpu_resource", replace(base, gpu_resource=text))),
        wild.map(
            lambda text: (
                "networks",
                replace(base, network=replace(base.network, networks=(text,))),
            )
        ),
        wild.map(
            lambda text: ("subnet", replace(base, network=replace(base.network, subnet=text)))
        ),
        wild.map(lambda text: ("topology", replace(base, topology=k8s_specs.Topology(label=text)))),
    )


@settings(max_examples=30, deadline=None, derandomize=True, database=None, phases=PHASES)
@given(case=refusals(), name=st.sampled_from(["volcano", "indexed-job"]))
def test_any_text_in_a_field_is_refused_in_a_line_or_gives_valid_objects(
    case: tuple[str, Spec], name: str
) -> None:
    _, spec = case
    try:
        read = read_spec(text_of(spec), "job.yaml")
        found = rendered(name, read).objects
    except SettingError as error:
        assert str(error).isprintable()
        return
    assert [error for each in found for error in k8s_schemas.errors(each)] == []
