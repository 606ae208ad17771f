# SPDX-License-Identifier: Apache-2.0
"""The JSON is what its schema says, field by field, and can always be written."""

import json
from dataclasses import fields
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from fake_survey import SURVEY, gpu, nic

from rdmatrain.discovery.model import Distance, Gpu, Machine, Netdev, Nic, Port
from rdmatrain.discovery.pod_model import Pair
from rdmatrain.discovery.survey import Survey
from rdmatrain.topo.command import as_json
from rdmatrain.topo.document import topology_document

SCHEMA = json.loads(files("rdmatrain.topo").joinpath("schemas/topo.schema.json").read_text())


def strict(schema: Any) -> Any:
    """The same schema, in which no field may be that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    extra = {"additionalProperties": False} if "properties" in schema else {}
    return extra | {name: strict(each) for name, each in schema.items()}


def document(survey: Survey) -> Any:
    return json.loads(as_json(topology_document(survey)))


@pytest.mark.parametrize(
    "survey",
    [SURVEY, Survey(SURVEY.machine, pairs=SURVEY.pairs), Survey(Machine("nothing"))],
    ids=["pod", "machine", "nothing"],
)
def test_it_is_what_the_schema_says(survey: Survey) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(strict(SCHEMA)).validate(document(survey))


def test_the_schema_refuses_what_it_should() -> None:
    wrong = document(SURVEY)
    wrong["pairs"][0]["distance"] = "NEAR"
    del wrong["machine"]["nics"][1]["ports"][0]["gids"][0]["type"]
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors(wrong)
    assert len(list(errors)) == 2


def test_pairs_are_one_for_each_gpu_with_names_and_addresses() -> None:
    assert document(SURVEY)["pairs"] == [
        {
            "gpu": "GPU0",
            "gpu_index": 0,
            "gpu_pci": "0000:10:00.0",
            "nic": "mlx5_2",
            "nic_pci": "0000:0c:00.2",
            "distance": "PIX",
            "reason": "PIX: both below one switch",
            "more": [],
        },
        {
            "gpu": "GPU1",
            "gpu_index": 1,
            "gpu_pci": "0000:11:00.0",
            "nic": "mlx5_2",
            "nic_pci": "0000:0c:00.2",
            "distance": "SYS",
            "reason": "SYS: nothing nearer",
            "more": [{"nic": "mlx5_3", "nic_pci": "0000:8c:00.0"}],
        },
    ]


def test_the_allocation_has_its_evidence() -> None:
    said = [{"source": "PCIDEVICE_X in /proc/1/environ", "text": "0000:0c:00.2"}]
    assert document(SURVEY)["allocation"] == {
        "gpus": [{"gpu": "GPU0", "evidence": said}, {"gpu": "GPU1", "evidence": []}],
        "nics": [
            {"nic": "mlx5_2", "port": 1, "gid": 3, "network": "default/net1", "evidence": said},
            {"nic": "mlx5_3", "port": 0, "gid": None, "network": "", "evidence": []},
        ],
        "others": [{"nic": "mlx5_0", "reason": "its GIDs are of another network namespace"}],
        "namespaces": "shared",
    }
    assert document(Survey(SURVEY.machine))["allocation"] is None


def test_a_rank_s_environment_is_what_it_should_run_with() -> None:
    first, second = document(SURVEY)["bindings"]
    common = {"NCCL_IB_HCA": "=mlx5_2:1", "NCCL_IB_GID_INDEX": "1"}
    assert first["environment"] == common
    assert second["environment"] == common | {"UCX_NET_DEVICES": "mlx5_9:1"}
    assert (second["gpu"], second["numa"], second["cpus"], first["cpus"]) == ("GPU1", 1, "", "0-1")
    assert second["nics"] == [
        {"nic": "mlx5_2", "port": 1, "gid": 3},
        {"nic": "mlx5_3", "port": 0, "gid": None},
    ]


def test_variables_say_who_set_them_and_what_rdmatrain_would() -> None:
    variables = document(SURVEY)["variables"]
    assert [(each["name"], each["local_rank"], each["by"]) for each in variables] == [
        ("NCCL_IB_HCA", None, "rdmatrain"),
        ("NCCL_IB_GID_INDEX", None, "user"),
        ("NCCL_TOPO_FILE", None, ""),
        ("UCX_NET_DEVICES", 1, "user"),
    ]
    assert variables[3] == {
        "name": "UCX_NET_DEVICES",
        "local_rank": 1,
        "value": "mlx5_9:1",
        "by": "user",
        "rdmatrain": "mlx5_2:1",
        "reason": "the rank's own",
    }


def test_devices_have_all_that_is_known() -> None:
    machine = document(SURVEY)["machine"]
    assert machine["nics"][1] == {
        "name": "mlx5_2",
        "pci": "0000:0c:00.2",
        "path": ["pci0000:07", "0000:07:01.0", "0000:08:00.0", "0000:09:02.0", "0000:0c:00.2"],
        "numa": 0,
        "netdevs": ["net1"],
        "ports": [
            {
                "number": 1,
                "state": "ACTIVE",
                "link_layer": "Ethernet",
                "gbps": 400.0,
                "gids": [{"index": 3, "address": "10.0.0.2", "type": "RoCE v2", "netdev": "net1"}],
            }
        ],
        "pf": "0000:0c:00.0",
        "is_vf": True,
        "uverbs": "uverbs2",
        "gbps": 400.0,
        "vendor": "15b3:101e",
        "board": "MT_1 28.39",
        "efa": False,
        "unfit": "",
        "auxiliary": "",
    }
    assert machine["cpus"] == "0-7"
    assert machine["nodes"] == [{"number": 0, "cpus": "0-3"}, {"number": 1, "cpus": "4-7"}]
    assert machine["netdevs"][0]["mtu"] == 4200
    assert document(SURVEY)["complaints"] == [
        {"id": "nic-foreign", "source": "mlx5_0", "text": "is not for this pod"}
    ]


@pytest.mark.parametrize(
    ("kind", "where", "left_out"),
    [
        (Gpu, ("gpus", 0), set()),
        (Nic, ("nics", 1), set()),
        (Netdev, ("netdevs", 0), set()),
        (Port, ("nics", 1, "ports", 0), {"device"}),
        # Distances are in the pairs, namespaces in the allocation.
        (Machine, (), {"stated", "collapsed", "namespaces", "complaints"}),
    ],
)
def test_no_field_of_the_model_is_forgotten(
    kind: type, where: tuple[str | int, ...], left_out: set[str]
) -> None:
    found = document(SURVEY)["machine"]
    for step in where:
        found = found[step]
    assert {field.name for field in fields(kind)} - left_out <= set(found)


def test_names_that_are_no_text_can_be_written() -> None:
    odd = nic("mlx5_\udcff\x1b", "0000:01:00.0")
    survey = Survey(
        Machine("x\udcff", gpus=(gpu(0),), nics=(odd,)),
        pairs=(Pair(gpu(0), odd, (), Distance.SYS, "\udcff"),),
    )
    assert as_json(topology_document(survey)).isascii()
    assert document(survey)["pairs"][0]["nic"] == "mlx5_\udcff\x1b"
