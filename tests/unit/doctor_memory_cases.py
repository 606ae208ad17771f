# SPDX-License-Identifier: Apache-2.0
"""Cases of the doctor without a machine: a pod in words, its files and probes in dictionaries."""

from collections.abc import Mapping
from typing import Any

from doctor_fixes import is_fix
from memory_source import MemorySource

from rdmatrain.discovery.model import Gpu, Machine, Nic
from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.discovery.pod_model import Allocation, Binding, GrantedGpu, GrantedNic, Pod, Variable
from rdmatrain.discovery.survey import Survey
from rdmatrain.doctor.catalog import by_id
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.model import Case, Finding, Needs

IPC_LOCK = 1 << 14
DOCKER = 0x00000000A80425FB  # what Docker and containerd leave in the bounding set


def pod_case(
    files: Mapping[str, Any] | None = None,
    probes: Mapping[str, Any] | None = None,
    *,
    nics: tuple[str, ...] = ("mlx5_2",),
    ranks: int = 1,
    nnodes: int | None = None,
    **more: Any,
) -> Case:
    """Return a case; ``more`` are ``gpus``, how many; ``kubernetes``; and fields of Needs."""
    devices = tuple(Nic(name) for name in nics)
    gpus = tuple(Gpu(index, f"GPU{index}") for index in range(more.pop("gpus", 0)))
    name = "KUBERNETES_SERVICE_HOST" if more.pop("kubernetes", False) else "HOME"
    bindings = tuple(
        Binding(rank, None, devices, (1,) * len(nics), (None,) * len(nics), None, (), "")
        for rank in range(ranks)
    )
    found = Survey(
        Machine("a test", gpus, devices),
        Pod((Variable(name, "10.96.0.1", "environment"),)),
        Allocation(
            tuple(GrantedGpu(gpu, ()) for gpu in gpus),
            tuple(GrantedNic(nic, 1, None, "", ()) for nic in devices),
        ),
        bindings=bindings,
        identity=Identity("plain", (), nnodes, None, None, "", None, None, {}, ()),
    )
    return Case(MemorySource(files or {}, probes), found, Needs(**more))


def ask(name: str, case: Case) -> Finding:
    """Return what one check finds, as the doctor would ask it."""
    (result,) = examine(case, [by_id()[name]])
    assert result.check.id == name
    assert "broken" not in result.finding.evidence
    wanted = result.finding.verdict.value in {"WARN", "FAIL"}
    assert is_fix(result.finding.fix) if wanted else not result.finding.fix
    return result.finding


def limits_file(**limits: tuple[object, object]) -> str:
    """Return /proc/self/limits; ``open_files=(1024, "unlimited")``, and so on."""
    rows = [
        f"Max {name.replace('_', ' '):<22}{soft!s:<21}{hard!s:<21}bytes     "
        for name, (soft, hard) in limits.items()
    ]
    head = "Limit                     Soft Limit           Hard Limit           Units     "
    return "\n".join([head, *rows, ""])


def status_file(user: int, effective: int, bounding: int = DOCKER) -> str:
    """Return /proc/self/status."""
    ids = "\t".join([str(user)] * 4)
    return (
        f"Name:\tpython\nUid:\t{ids}\nCapPrm:\t{effective:016x}\nCapEff:\t{effective:016x}\n"
        f"CapBnd:\t{bounding:016x}\nCapAmb:\t{0:016x}\n"
    )
