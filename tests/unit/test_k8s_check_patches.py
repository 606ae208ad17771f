# SPDX-License-Identifier: Apache-2.0
"""What ``k8s check --patch`` writes is what the renderer would write."""

from typing import Any

import pytest
import yaml
from k8s_bad_manifests import FIXTURES, manifest
from k8s_specs import TCP, rendered, small

from rdmatrain.doctor.model import Verdict
from rdmatrain.k8s import exits
from rdmatrain.k8s.check import check, patched
from rdmatrain.k8s.text import stream

BAD = FIXTURES / "bad"


def after(text: str, kind: str) -> dict[str, Any]:
    """Return the object of a kind, patched."""
    objects = yaml.safe_load_all(patched(manifest(text)).text)
    return next(each for each in objects if each["kind"] == kind)


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize(
    ("words", "better"),
    [
        ('"--nnodes", "8"', ["--nnodes", "2"]),
        ('"--nnodes=8"', ["--nnodes=2"]),
    ],
)
def test_an_option_is_changed_and_not_a_variable_that_it_wins_over(
    words: str, better: list[str]
) -> None:
    text = (BAD / "more-nodes-than-pods.yaml").read_text("utf-8")
    box = trainer(after(text.replace('--nnodes, "8"', words), "Job"))
    assert box["command"] == ["rdmatrain", "run", *better, "finetune.py"]
    assert [each["name"] for each in box["env"]] == ["RDMATRAIN_SECRET"]


def test_a_job_is_tried_again_as_the_renderers_is() -> None:
    text = (BAD / "backoff-of-single-pods.yaml").read_text("utf-8")
    job = after(text, "Job")["spec"]
    ours = next(each for each in rendered("indexed-job", small()).objects if each["kind"] == "Job")
    for name in ("podFailurePolicy", "maxFailedIndexes", "podReplacementPolicy"):
        assert job[name] == ours["spec"][name], name
    assert (job["backoffLimitPerIndex"], "backoffLimit" in job) == (6, False)


def test_a_jobset_is_tried_again_as_the_renderers_is() -> None:
    text = (BAD / "jobset-without-restarts.yaml").read_text("utf-8")
    made = after(text, "JobSet")["spec"]
    assert made["failurePolicy"] == exits.jobset_failure_policy(3)
    text = (BAD / "jobset-retries-everything.yaml").read_text("utf-8")
    (group,) = after(text, "JobSet")["spec"]["replicatedJobs"]
    assert group["template"]["spec"]["podFailurePolicy"] == exits.child_failure_policy()


def test_rules_of_ones_own_stay_behind_those_that_are_added() -> None:
    own = "{action: Count, onExitCodes: {operator: In, values: [201]}}"
    text = (BAD / "backoff-of-single-pods.yaml").read_text("utf-8")
    text = text.replace(
        "  template:\n", f"  podFailurePolicy: {{rules: [{own}]}}\n  template:\n", 1
    )
    rules = after(text, "Job")["spec"]["podFailurePolicy"]["rules"]
    assert rules == [*exits.job_failure_policy()["rules"], yaml.safe_load(own)]


@pytest.mark.parametrize("variable", ["", '{name: RDMATRAIN_SECRET, value: "%s"}' % ("x" * 44)])
def test_the_gangs_secret_is_a_file_as_the_renderers_is(variable: str) -> None:
    text = (BAD / "no-secret.yaml").read_text("utf-8")
    if variable:
        text = text.replace(
            "        securityContext:", f"        env: [{variable}]\n        securityContext:"
        )
    done = patched(manifest(text))
    objects = {each["kind"]: each for each in yaml.safe_load_all(done.text)}
    job = rendered("indexed-job", small()).objects
    ours = next(each for each in job if each["kind"] == "Job")
    box, wanted = trainer(objects["Job"]), trainer(ours)
    names = ("RDMATRAIN_SECRET", "RDMATRAIN_SECRET_FILE")
    assert [each for each in box["env"] if each["name"] in names] == [
        each for each in wanted["env"] if each["name"] in names
    ]
    (mount,) = (each for each in box["volumeMounts"] if each["name"] == "secret")
    assert mount in wanted["volumeMounts"]
    volumes = objects["Job"]["spec"]["template"]["spec"]["volumes"]
    (secret,) = (each["secret"] for each in volumes if each["name"] == "secret")
    assert secret == {"secretName": "finetune-secret"}
    if variable:
        assert objects["Secret"]["metadata"]["name"] == "finetune-secret"
        assert objects["Secret"]["stringData"] == {"secret": "x" * 44}


def test_a_jobset_that_starts_again_only_when_preempted_is_told_nothing_wrong() -> None:
    made = rendered("jobset", small(TCP, max_restarts=0)).objects
    found = {each.check.id: each for each in check(manifest(stream(made)))}
    assert found["failure-policy"].verdict is Verdict.PASS
