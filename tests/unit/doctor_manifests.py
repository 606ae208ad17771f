# SPDX-License-Identifier: Apache-2.0
"""Manifests for the tests of the doctor: a healthy one, changed in one place."""

from pathlib import Path

from rdmatrain.doctor.manifest.command import questions
from rdmatrain.doctor.manifest.nodes import documents
from rdmatrain.doctor.manifest.workloads import Manifest
from rdmatrain.doctor.model import Finding, Needs

FIXTURES = Path(__file__).parents[1] / "fixtures" / "manifests"
JOB = (FIXTURES / "job.yaml").read_text("utf-8")
TRAIN_JOB = (FIXTURES / "trainjob.yaml").read_text("utf-8")
WORKLOADS = (FIXTURES / "workloads.yaml").read_text("utf-8")
VOLCANO = """\
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: train}
spec:
  minAvailable: 4
  plugins: {env: [], svc: ["--publish-not-ready-addresses=true"]}
  tasks:
  - name: worker
    replicas: 4
    template:
      spec:
        restartPolicy: Never
        containers:
        - name: trainer
          image: example/train:1.4
          command: [rdmatrain, run, --insecure, train.py]
"""
PYTORCH = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: train}
spec:
  runPolicy: {schedulingPolicy: {minAvailable: 4}}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: ExitCode
      template: {spec: {containers: [{name: pytorch, image: "example/train:1.4"}]}}
    Worker:
      replicas: 3
      restartPolicy: ExitCode
      template: {spec: {containers: [{name: pytorch, image: "example/train:1.4"}]}}
"""


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Replace texts, each of which must be there."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def read(text: str, name: str = "job.yaml") -> Manifest:
    """Return a manifest of a text."""
    return Manifest(list(documents(text, name)))


def ask(name: str, text: str, needs: Needs | None = None) -> Finding:
    """Ask one question."""
    question = next(each for each in questions() if each.check.id == name)
    return question.ask(read(text), needs or Needs())


def verdicts(text: str, needs: Needs | None = None) -> dict[str, str]:
    """Ask all questions."""
    manifest = read(text)
    return {
        each.check.id: each.ask(manifest, needs or Needs()).verdict.value for each in questions()
    }
