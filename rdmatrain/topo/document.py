"""The topology as JSON, as ``schemas/topo.schema.json`` describes it."""

from collections.abc import Iterable
from typing import Any

from rdmatrain import __version__
from rdmatrain.discovery.environment import Choice, Environment
from rdmatrain.discovery.model import Complaint, Evidence, Gpu, Machine, Netdev, Nic, Port
from rdmatrain.discovery.pci import format_cpus
from rdmatrain.discovery.pod_model import Allocation, Binding, Pair
from rdmatrain.discovery.survey import Survey

SCHEMA = "rdmatrain-topo/1"


def topology_document(survey: Survey) -> dict[str, Any]:
    """Return everything as JSON has it; a name stands for the device that has it."""
    has_pod = survey.pod is not None
    return {
        "schema": SCHEMA,
        "version": __version__,
        "machine": _machine(survey.machine),
        "allocation": _allocation(survey.allocation) if has_pod else None,
        "pairs": [_pair(pair) for pair in survey.pairs],
        "bindings": [_binding(survey, binding) for binding in survey.bindings],
        "variables": _variables(survey.environment) if survey.environment else [],
        "complaints": complaint_list(survey.complaints),
    }


def complaint_list(complaints: Iterable[Complaint]) -> list[dict[str, str]]:
    """Return complaints as JSON has them."""
    return [{"id": each.id, "source": each.source, "text": each.text} for each in complaints]


def evidence_list(evidence: Iterable[Evidence]) -> list[dict[str, str]]:
    """Return evidence as JSON has it."""
    return [{"source": each.source, "text": each.text} for each in evidence]


def _machine(machine: Machine) -> dict[str, Any]:
    return {
        "origin": machine.origin,
        "product": machine.product,
        "virtual": machine.virtual,
        "cpus": format_cpus(machine.cpus),
        "nodes": [{"number": n.number, "cpus": format_cpus(n.cpus)} for n in machine.nodes],
        "gpus": [_gpu(gpu) for gpu in machine.gpus],
        "nics": [_nic(nic) for nic in machine.nics],
        "netdevs": [_netdev(netdev) for netdev in machine.netdevs],
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "pci": gpu.pci,
        "path": list(gpu.path),
        "numa": gpu.numa,
        "vendor": gpu.vendor,
        "uuid": gpu.uuid,
        "minor": gpu.minor,
        "model": gpu.model,
        "mig": list(gpu.mig),
    }


def _nic(nic: Nic) -> dict[str, Any]:
    return {
        "name": nic.name,
        "pci": nic.pci,
        "path": list(nic.path),
        "numa": nic.numa,
        "netdevs": list(nic.netdevs),
        "ports": [_port(port) for port in nic.ports],
        "pf": nic.pf,
        "is_vf": nic.is_vf,
        "uverbs": nic.uverbs,
        "gbps": nic.gbps,
        "vendor": nic.vendor,
        "board": nic.board,
        "efa": nic.efa,
        "unfit": nic.unfit,
        "auxiliary": nic.auxiliary,
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "number": port.number,
        "state": port.state,
        "link_layer": port.link_layer,
        "gbps": port.gbps,
        "gids": [
            {"index": g.index, "address": g.address, "type": g.kind, "netdev": g.netdev}
            for g in port.gids
        ],
    }


def _netdev(netdev: Netdev) -> dict[str, Any]:
    return {
        "name": netdev.name,
        "pci": netdev.pci,
        "mac": netdev.mac,
        "mtu": netdev.mtu,
        "state": netdev.state,
        "addresses": list(netdev.addresses),
    }


def _allocation(allocation: Allocation) -> dict[str, Any]:
    return {
        "gpus": [
            {"gpu": each.gpu.name, "evidence": evidence_list(each.evidence)}
            for each in allocation.gpus
        ],
        "nics": [
            {
                "nic": each.nic.name,
                "port": each.port,
                "gid": None if each.gid is None else each.gid.index,
                "network": each.network,
                "evidence": evidence_list(each.evidence),
            }
            for each in allocation.nics
        ],
        "others": [{"nic": nic.name, "reason": reason} for nic, reason in allocation.others],
        "namespaces": allocation.namespaces,
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "gpu": pair.gpu.name,
        "gpu_index": pair.gpu.index,
        "gpu_pci": pair.gpu.pci,
        "nic": pair.nic.name,
        "nic_pci": pair.nic.pci,
        "distance": pair.distance.name,
        "reason": pair.reason,
        "more": [{"nic": nic.name, "nic_pci": nic.pci} for nic in pair.more],
    }


def _binding(survey: Survey, binding: Binding) -> dict[str, Any]:
    environment = survey.environment or Environment((), {})
    choices = (*environment.common, *environment.ranks.get(binding.local_rank, ()))
    return {
        "local_rank": binding.local_rank,
        "gpu": binding.gpu.name if binding.gpu else None,
        "nics": [
            {"nic": nic.name, "port": port, "gid": gid}
            for nic, port, gid in zip(binding.nics, binding.ports, binding.gid_indexes, strict=True)
        ],
        "numa": binding.numa,
        "cpus": format_cpus(binding.cpus),
        "reason": binding.reason,
        "environment": {each.name: each.value for each in choices if each.value},
    }


def _variables(environment: Environment) -> list[dict[str, Any]]:
    choices: list[tuple[int | None, Choice]] = [(None, each) for each in environment.common]
    for rank in sorted(environment.ranks):
        choices += [(rank, each) for each in environment.ranks[rank]]
    return [
        {
            "name": each.name,
            "local_rank": rank,
            "value": each.value,
            "by": each.by,
            "rdmatrain": each.mine,
            "reason": each.reason,
        }
        for rank, each in choices
    ]
