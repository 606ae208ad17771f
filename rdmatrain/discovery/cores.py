"""Which CPUs belong together: threads of a core, cores of a cache, CPUs of a socket."""

from rdmatrain.discovery.pci import parse_cpus
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import attribute, number

CPUS = "/sys/devices/system/cpu"


def socket_of(source: Source, cpu: int) -> int | None:
    """Return the number of a CPU's socket; None where it is not known."""
    return number(source, f"{CPUS}/cpu{cpu}/topology/physical_package_id")


def threads_of_core(source: Source, cpu: int) -> tuple[int, ...]:
    """Return all CPUs of a CPU's core; empty where they are not known."""
    return parse_cpus(attribute(source, f"{CPUS}/cpu{cpu}/topology/thread_siblings_list"))


def sharers_of_cache(source: Source, cpu: int) -> tuple[int, ...]:
    """Return all CPUs that share a CPU's last level of cache; empty where they are not known."""
    folder = f"{CPUS}/cpu{cpu}/cache"
    levels = {}
    for name in source.names(folder):
        level = number(source, f"{folder}/{name}/level")
        if level and attribute(source, f"{folder}/{name}/type") in {"Unified", "Data"}:
            levels[level] = f"{folder}/{name}/shared_cpu_list"
    return parse_cpus(attribute(source, levels[max(levels)])) if levels else ()
