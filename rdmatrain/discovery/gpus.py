"""GPUs that this container can use: as NVML shows them, or else as the kernel does."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rdmatrain.discovery.complaints import complaint, counted
from rdmatrain.discovery.model import Complaint, Gpu
from rdmatrain.discovery.pci import GPU_CLASSES, SCREEN_CLASS, bus_order, parse_pci
from rdmatrain.discovery.probes import NO_PYNVML
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import (
    Function,
    addresses,
    attribute,
    class_of,
    function_at,
)

DRIVER = "/proc/driver/nvidia/gpus"
NVIDIA, AMD = "10de", "1002"

_NODE = re.compile("nvidia([0-9]{1,5})")


def read_gpus(source: Source) -> tuple[list[Gpu], list[Complaint]]:
    """Read the GPUs in the order of the bus, by which CUDA_DEVICE_ORDER=PCI_BUS_ID counts."""
    complaints: list[Complaint] = []
    shown = _of_nvml(source, complaints)
    if shown is None:
        shown = _of_driver(source, complaints) or _of_bus(source)
        shown = _with_nodes(source, shown, complaints)
    others = _of_amd(source, complaints, with_screens=not shown)
    gpus = sorted([*shown, *others], key=lambda gpu: bus_order(gpu.pci))
    numbered = [replace(gpu, index=i, name=f"GPU{i}") for i, gpu in enumerate(gpus)]
    return numbered, complaints


def _placed(source: Source, gpu: Gpu) -> Gpu:
    """Return a GPU with what sysfs says of its PCI function."""
    function = function_at(source, gpu.pci)
    return replace(gpu, path=function.path, numa=function.numa)


def _of_nvml(source: Source, complaints: list[Complaint]) -> list[Gpu] | None:
    """Return what NVML shows; None where it shows nothing because it could not be asked."""
    error, answers = _answers(source.probe("nvml"))
    if error and error != NO_PYNVML and (answers or _nodes(source)):
        text = f"{error}; if it worked before, the container has lost its devices: restart the pod"
        complaints.append(complaint("nvml-failed", "NVML", text))
    if error and not answers:
        return None
    return [_placed(source, _of_answer(each)) for each in answers]


def _answers(probe: Any) -> tuple[str, list[Mapping[str, Any]]]:
    """Return error and GPUs of the probe, which may come from a file and be anything."""
    if not isinstance(probe, Mapping) or not isinstance(probe.get("gpus"), list):
        return NO_PYNVML, []
    # A driver that first wakes up eight GPUs is slow, and none the worse.
    if probe.get("unanswered"):
        return NO_PYNVML, []
    return str(probe.get("error", "")), [
        each for each in probe["gpus"] if isinstance(each, Mapping)
    ]


def _of_answer(answer: Mapping[str, Any]) -> Gpu:
    minor, mig = answer.get("minor"), answer.get("mig")
    return Gpu(
        index=0,
        name="",
        pci=parse_pci(str(answer.get("pci", ""))),
        vendor="nvidia",
        uuid=str(answer.get("uuid", "")),
        minor=minor if isinstance(minor, int) else None,
        model=str(answer.get("name", "")),
        mig=tuple(map(str, mig)) if isinstance(mig, list) else (),
    )


def _of_driver(source: Source, complaints: list[Complaint]) -> list[Gpu]:
    """Return what NVIDIA's driver shows in procfs."""
    gpus = []
    for name in source.names(DRIVER):
        path = f"{DRIVER}/{name}/information"
        text, pci = source.text(path), parse_pci(name)
        if not text or not pci:
            why = source.failure(path) or "its folder is not named by a PCI address"
            complaints.append(complaint("unreadable", path, f"{why}; this GPU was left out"))
            continue
        pairs = (line.partition(":") for line in text.splitlines())
        said = {key.strip(): value.strip() for key, _, value in pairs}
        uuid, minor = said.get("GPU UUID", ""), said.get("Device Minor", "")
        gpu = Gpu(
            index=0,
            name="",
            pci=pci,
            vendor="nvidia",
            # Question marks until somebody has opened the GPU.
            uuid="" if "?" in uuid else uuid,
            minor=int(minor) if re.fullmatch("[0-9]{1,5}", minor) else None,
            model=said.get("Model", ""),
        )
        gpus.append(_placed(source, gpu))
    return gpus


def _of_bus(source: Source) -> list[Gpu]:
    """Return NVIDIA's GPUs where its driver says nothing."""
    return [
        _placed(source, Gpu(0, "", pci, vendor="nvidia"))
        for pci in addresses(source, NVIDIA)
        if class_of(source, pci) in GPU_CLASSES
    ]


def _of_amd(source: Source, complaints: list[Complaint], with_screens: bool) -> list[Gpu]:
    """Return AMD's GPUs: those that can be opened to compute here, where /dev is shown.

    Args:
        source: where to read.
        complaints: gets what is hidden.
        with_screens: also those that a screen can be on, as the one in a Ryzen CPU, which is not
            what programs use beside a GPU of NVIDIA.

    """
    functions = _amd_functions(source, with_screens)
    dev = source.names("/dev")
    if not functions or not dev:
        return [_amd_gpu(source, each) for each in functions]
    # Without kfd, the node of a GPU only draws.
    nodes = set(source.names("/dev/dri")) if "kfd" in dev else set()
    shown = [each for each in functions if nodes & set(source.names(f"{each.folder}/drm"))]
    if not shown:
        node = "/dev/dri/renderDN" if "kfd" in dev else "/dev/kfd"
        complaints.append(_hidden(len(functions), node))
    return [_amd_gpu(source, each) for each in shown]


def _amd_functions(source: Source, with_screens: bool) -> list[Function]:
    classes = GPU_CLASSES if with_screens else GPU_CLASSES - {SCREEN_CLASS}
    return [
        function
        for pci in addresses(source, AMD)
        if class_of(source, pci) in classes
        and (function := function_at(source, pci)).driver in {"", "amdgpu"}
    ]


def _amd_gpu(source: Source, function: Function) -> Gpu:
    unique = attribute(source, f"{function.folder}/unique_id")
    return Gpu(
        index=0,
        name="",
        pci=function.pci,
        path=function.path,
        numa=function.numa,
        vendor="amd",
        uuid=f"GPU-{unique.removeprefix('0x')}" if unique else "",
        model=attribute(source, f"{function.folder}/product_name"),
    )


def _nodes(source: Source) -> set[int]:
    """Return the N of each ``/dev/nvidiaN``."""
    return {int(match[1]) for name in source.names("/dev") if (match := _NODE.fullmatch(name))}


def _with_nodes(source: Source, gpus: list[Gpu], complaints: list[Complaint]) -> list[Gpu]:
    """Keep the GPUs that have a device node, where /dev is shown: the driver shows all of the host.

    Args:
        source: where to read.
        gpus: NVIDIA's.
        complaints: gets what is unclear.

    """
    if not gpus or not source.names("/dev"):
        return gpus
    nodes = _nodes(source)
    if not nodes:
        complaints.append(_hidden(len(gpus), "/dev/nvidiaN"))
        return []
    kept = [gpu for gpu in gpus if gpu.minor in nodes]
    if kept and all(gpu.minor is not None for gpu in gpus):
        return kept
    if len(nodes) != len(gpus):
        seen = f"{len(nodes)} of {counted(len(gpus), 'GPU')} have a node"
        text = f"{seen}, and nothing says which: all are kept"
        complaints.append(complaint("gpus-unclear", "/dev", text))
    return gpus


def _hidden(num: int, node: str) -> Complaint:
    text = f"the kernel shows {counted(num, 'GPU')}, and there is no {node} for any: left out"
    return complaint("gpus-hidden", "/dev", text)
