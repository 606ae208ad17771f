"""Networks, node policies and claims: what a cluster needs so that pods get RDMA devices.

``sriov``, ``shared``, ``dra`` and ``dra_driver`` make the objects of one kind of devices each,
``operators`` those of all, ``multus`` the annotation; ``fabric`` is what they share.
"""

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.devices import dra, dra_driver, multus, operators, shared, sriov
from rdmatrain.k8s.parts import Object, Part, together
from rdmatrain.k8s.spec import DRA, SHARED, SRIOV, TCP, Spec
from rdmatrain.k8s.text import document


def cluster_devices(spec: Spec, cluster: Cluster) -> Part:
    """Return what an administrator applies once: policies, networks, values of the operators.

    Raises:
        SettingError: the operators cannot have it so; which field, and what to do.

    """
    del cluster  # These objects are the same in all versions that are rendered.
    kind = spec.network.devices
    # Not .yaml: kubectl apply -f of the folder would take them for objects.
    texts = tuple(
        (f"{chart}.values", document(values)) for chart, values in operators.values(spec).items()
    )
    if kind == TCP:
        return Part(texts=texts)
    made = {SRIOV: _functions, SHARED: shared.parts, DRA: dra_driver.parts}[kind](spec)
    return together([operators.nic_cluster_policy(spec), made, Part(texts=texts)])


def _functions(spec: Spec) -> Part:
    # Without networks, the nodes have their functions, and the plugin of the policy offers them.
    return sriov.parts(spec) if spec.network.networks else Part()


def job_devices(spec: Spec, cluster: Cluster) -> Part:
    """Return what belongs to the job: the ResourceClaimTemplate of DRA.

    Raises:
        SettingError: the claim cannot be so; which field, and what to do.

    """
    return dra.claim_template(spec, cluster) if spec.network.devices == DRA else Part()


def networks(spec: Spec) -> tuple[str, ...]:
    """Return the NetworkAttachmentDefinitions that pods name, each once."""
    network = spec.network
    if network.devices == DRA and network.device_class != dra.SRIOV_DRIVER:
        return ()
    count = {TCP: 0, SHARED: 1}.get(network.devices, network.vfs)
    return tuple(dict.fromkeys(multus.attached(network, count)))


def pod_devices(spec: Spec) -> tuple[Object, dict[str, str], dict[str, int]]:
    """Return what a pod's template needs.

    Returns:
        Fields of the pod's spec (``resourceClaims``; and ``claims`` of the container as
        ``{"claims": [...]}`` under the key ``container``), annotations, and extended resources of
        the container by name. GPUs are among the resources, except with DRA: its claim has them.

    Raises:
        SettingError: the names of networks do not fit the devices.

    """
    if spec.network.devices == DRA:
        return dra.pod_fields(spec), {}, {}
    resources = {spec.gpu_resource: spec.gpus} if spec.gpus else {}
    count = {SRIOV: spec.network.vfs, SHARED: 1}.get(spec.network.devices, 0)
    if count:
        resources[spec.network.resource] = count
    return {}, multus.annotations(spec.network, count), resources
