"""Where pods are put by schedulers that know no topology, and Volcano's topology of the network."""

from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.pod import near
from rdmatrain.k8s.spec import Spec


def drawn_together(spec: Spec, notes: Notes, path: str) -> Object:
    """Return the fields of a pod by which the scheduler puts it where the others are.

    Args:
        spec: of the job.
        notes: where it is noted.
        path: of the pods' template in the object that the notes are of.

    """
    affinity = near(spec)
    where = f"{path}.spec.affinity.podAffinity"
    if not affinity:
        notes.add("topology.label", where, "none", "The pods may be anywhere.")
        notes.add("topology.required", where, "none", "No label is given.")
        return {}
    why = "The first pod decides where the others go, whether or not there is room for all."
    notes.add("topology.label", where, spec.topology.label, why)
    kind, how = next(iter(affinity["podAffinity"].items()))
    why = "Required: a pod waits for room there; preferred: it goes elsewhere where there is none."
    notes.add("topology.required", f"{where}.{kind}", how, why)
    return {"affinity": affinity}


def without_tiers(notes: Notes, path: str) -> None:
    """Note that a scheduler knows no tiers."""
    notes.add("topology.tier", path, "none", "Only Volcano has HyperNodes, and so tiers.")


def network_topology(spec: Spec, notes: Notes, path: str) -> Object:
    """Return Volcano's ``networkTopology``, in an object of fields; empty where no tier is given.

    Args:
        spec: of the job.
        notes: where it is noted.
        path: of ``networkTopology`` in the object that the notes are of.

    """
    topology = spec.topology
    if not topology.tier:
        notes.add("topology.tier", path, "none", "HyperNodes do not count where no tier is given.")
        return {}
    mode = "hard" if topology.required else "soft"
    why = "Hard: the job waits for such a place; soft: it takes the nearest that there is."
    notes.add("topology.required", f"{path}.mode", mode, why)
    why = "All pods come below one HyperNode of at most this tier; an administrator makes those."
    notes.add("topology.tier", f"{path}.highestTierAllowed", topology.tier, why)
    why = "The HyperNodes stand for it."
    notes.add("topology.label", path, "none", why)
    return {"networkTopology": {"mode": mode, "highestTierAllowed": topology.tier}}
