"""How Prometheus and Grafana hear of a job.

A PodMonitor, and no ServiceMonitor beside it, for every target: it selects pods by the labels that
all of them have. Half of the targets' headless Services are made by controllers, without a port to
name; and pods that two monitors select are scraped, and counted, twice.
"""

from rdmatrain.k8s import alerts, dashboard
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Note, Object, Part
from rdmatrain.k8s.spec import Spec

# The container's port by name, as the template has it.
PORT_NAME = "metrics"
PATH = "/metrics"
INTERVAL = "15s"
TIMEOUT = "10s"
# Its value becomes the label "job" of all that is scraped; rules and dashboard go by it.
JOB_LABEL = "app.kubernetes.io/instance"


def monitoring(spec: Spec, cluster: Cluster) -> Part:
    """Return what belongs to the job: its PodMonitor; nothing where no metrics are served."""
    watched = spec.monitoring
    if not watched.port:
        why = "No metrics are served, so nobody is told to scrape them."
        return Part(notes=(Note("monitoring.port", f"PodMonitor/{spec.name}: none", why),))
    notes = Notes(f"PodMonitor/{spec.name}")
    notes.add(
        "monitoring.port",
        "spec.podMetricsEndpoints[0].port",
        PORT_NAME,
        "Prometheus finds the port by its name in the pod's template.",
    )
    why = "Prometheus takes the monitors that have the labels which its own object selects."
    notes.add("monitoring.labels", "metadata.labels", dict(watched.labels), why)
    return Part((_pod_monitor(spec),), notes.all())


def cluster_monitoring(spec: Spec, cluster: Cluster) -> Part:
    """Return what an administrator applies once, for all jobs: rules and a dashboard."""
    if not spec.monitoring.port:
        return Part()
    notes = Notes(f"PrometheusRule/{alerts.NAME}")
    why = "Rules and dashboard are of all jobs; they are where Prometheus and Grafana run."
    notes.add("monitoring.namespace", "metadata.namespace", spec.monitoring.namespace, why)
    return Part((dashboard.config_map(spec), alerts.prometheus_rule(spec)), notes.all())


def _pod_monitor(spec: Spec) -> Object:
    endpoint = {"port": PORT_NAME, "path": PATH, "interval": INTERVAL, "scrapeTimeout": TIMEOUT}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {**spec.labels, **spec.monitoring.labels},
        },
        "spec": {
            "jobLabel": JOB_LABEL,
            "selector": {"matchLabels": spec.labels},
            "podMetricsEndpoints": [endpoint],
        },
    }
