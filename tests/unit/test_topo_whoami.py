# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import jsonschema
import pytest

import rdmatrain.topo
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.orchestrator import Identity, whoami
from rdmatrain.discovery.orchestrators.adapters import ADAPTERS
from rdmatrain.discovery.pod_model import Pod, Variable
from rdmatrain.discovery.source import Tree
from rdmatrain.topo.whoami import whoami_document, whoami_text

SCHEMA = json.loads(
    (Path(rdmatrain.topo.__file__).parent / "schemas" / "whoami.schema.json").read_text()
)
KNOWN = Identity(
    orchestrator="torchrun",
    within=("trainer", "indexed-job"),
    nnodes=2,
    node_rank=0,
    nproc_per_node=8,
    leader="llm-node-0-0.llm",
    leader_port=29500,
    epoch=0,
    decided_by=dict.fromkeys(SCHEMA["properties"]["decided_by"]["required"], "X: 1"),
    complaints=(complaint("stale-hosts", "A", "b"),),
)


def test_document() -> None:
    document = whoami_document(KNOWN)
    jsonschema.validate(document, SCHEMA)
    assert set(document) == set(SCHEMA["properties"])
    assert document["node_rank"] == 0 and document["epoch"] == 0
    assert document["leader"] == "llm-node-0-0.llm"
    assert document["within"] == ["trainer", "indexed-job"]
    assert document["complaints"] == [{"id": "stale-hosts", "source": "A", "text": "b"}]
    assert json.loads(json.dumps(document)) == document


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    document = whoami_document(whoami(Tree(tmp_path), Pod()))
    jsonschema.validate(document, SCHEMA)
    assert document["orchestrator"] == "plain"
    assert [document[name] for name in ("nnodes", "node_rank", "leader", "leader_port")] == [
        None
    ] * 4
    assert all(document["decided_by"].values())


def test_schema_knows_every_orchestrator_and_no_other() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    names = [adapter.name for adapter in ADAPTERS]
    assert SCHEMA["properties"]["orchestrator"]["enum"] == names


@pytest.mark.parametrize(("field", "value"), [("node_rank", -1), ("leader", ""), ("nnodes", "2")])
def test_schema_refuses(field: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**whoami_document(KNOWN), field: value}, SCHEMA)


def test_text(tmp_path: Path) -> None:
    variables = {"JOB_COMPLETION_INDEX": "0", "PET_NNODES": "x"}
    pod = Pod(tuple(Variable(name, value, "environment") for name, value in variables.items()))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("llm-0\n")
    lines = whoami_text(whoami(Tree(tmp_path), pod)).splitlines()
    assert lines[0] == "orchestrator    indexed-job  JOB_COMPLETION_INDEX in environment"
    assert lines[1].startswith("nnodes          unknown      a Job does not tell its pods")
    assert lines[2] == "node_rank       0            JOB_COMPLETION_INDEX in environment: 0"
    assert lines[7] == ""
    assert [line.split(":")[0] for line in lines[8:]] == ["! not-a-number", "! no-subdomain"]
    assert whoami_text(KNOWN).startswith("orchestrator    torchrun in trainer in indexed-job  X")
