"""Where pods are put by schedulers that know no topology, and Volcano's topology of the network."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import Spec


def refuse_tier(spec: Spec) -> None:
    """Refuse a tier without a label, for a target whose system knows no HyperNodes.

    Raises:
        SettingError: with the remedy.

    """
    if spec.topology.tier and not spec.topology.label:
        raise SettingError(
            f"topology.tier: {spec.topology.tier} is of Volcano's HyperNodes: give topology.label, "
            "or render --for volcano"
        )


def note_topology(spec: Spec, notes: Notes, pod: str) -> None:
    """Note what becomes of the topology where the pods' affinity says it.

    Args:
        spec: of the job.
        notes: to add to.
        pod: path of the pods' spec.

    """
    want, path = spec.topology, f"{pod}.affinity.podAffinity"
    why = "All pods on nodes with one value of it." if want.label else "Pods may be anywhere."
    notes.add("topology.label", path, want.label or "none", why)
    how = "required" if want.required else "preferred"
    why = "A pod that finds no such node waits." if want.required else "As many as find room."
    notes.add("topology.required", path, how if want.label else "none", why)
    notes.add("topology.tier", path, "none", "Of Volcano's HyperNodes; the label says it here.")


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
    why = (
        "All pods come below one HyperNode of at most this tier: an administrator makes those, and "
        "where there are none a job whose topology is required waits for ever."
    )
    path_of_tier = f"{path}.highestTierAllowed"
    notes.add("topology.tier", path_of_tier, topology.tier, why, urgent=topology.required)
    why = "The HyperNodes stand for it."
    notes.add("topology.label", path, "none", why)
    return {"networkTopology": {"mode": mode, "highestTierAllowed": topology.tier}}
