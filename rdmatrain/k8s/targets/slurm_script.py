"""The text of a script for sbatch."""

import shlex
from collections.abc import Iterator

from rdmatrain.k8s.container import has_secret
from rdmatrain.k8s.pod import termination_grace
from rdmatrain.k8s.run_line import run_line
from rdmatrain.k8s.spec import MIB, TCP, Spec
from rdmatrain.launcher.exit_codes import NO_JOB, PREEMPTED, RETRYABLE

# All ports from here to the next ten thousand, by the job's number: the leader of a job that was
# just ended on these nodes may still hold its own.
_FIRST_PORT = 20000
# A job goes on from its checkpoint whenever its time is up, which is no fault; but not for ever, as
# one whose time is too short for a single step would.
_MOST_STARTS = 1000
_RULE = "# What the launchers end with counts: srun returns the highest of their codes."


def script(spec: Spec) -> str:
    """Return the script."""
    parts = [_request(spec), _environment(spec), _secret(spec), _step(spec), _wait(), _end(spec)]
    return "\n".join(line for part in parts for line in part) + "\n"


def memory(spec: Spec) -> str:
    """Return the memory of a node in Slurm's words: whole MiB, of which none is missing."""
    return f"{-(-spec.memory_bytes // MIB)}M"


def switches(spec: Spec) -> str:
    """Return how many switches may be between the nodes, and how long that is waited for."""
    if not spec.topology.label and spec.topology.tier != 1:
        return ""
    return "1" if spec.topology.required else "1@00:10:00"


def secret_file(spec: Spec) -> str:
    """Return where the job's secret is, in a folder that all nodes see."""
    return f"$HOME/.rdmatrain/{spec.secret_name}"


def pyxis_image(image: str) -> str:
    """Return an image as Pyxis names it: ``REGISTRY#NAME:TAG``."""
    registry, slash, rest = image.partition("/")
    is_registry = slash and ("." in registry or ":" in registry or registry == "localhost")
    return f"{registry}#{rest}" if is_registry else image


def _request(spec: Spec) -> Iterator[str]:
    yield "#!/usr/bin/env bash"
    yield f"# {spec.name}: one launcher on each of {spec.nodes} nodes. Submit it with sbatch."
    wanted = {
        "job-name": spec.name,
        "nodes": str(spec.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(spec.cpus),
        "mem": memory(spec),
        "gpus-per-node": str(spec.gpus) if spec.gpus else "",
        "partition": spec.queue,
        "qos": spec.priority,
        "switches": switches(spec),
        # To the script alone, and not SIGTERM, which scancel sends: that is no wish to go on.
        "signal": f"B:USR1@{termination_grace(spec)}",
        "open-mode": "append",
        "output": "%x-%j.out",
    }
    for name, value in wanted.items():
        if value:
            yield f"#SBATCH --{name}={value}"
    yield "#SBATCH --exclusive"
    yield "#SBATCH --requeue"
    yield "set -euo pipefail"
    yield ""


def _environment(spec: Spec) -> Iterator[str]:
    own = {
        "RDMATRAIN_GRACE": str(spec.grace_s),
        "RDMATRAIN_JOIN_TIMEOUT": str(spec.join_timeout_s),
    }
    if spec.network.devices != TCP:
        own["RDMATRAIN_REQUIRE"] = "verbs"
    for name, value in {**own, **visible(spec), **spec.env}.items():
        yield f"export {name}={shlex.quote(value)}"
    yield "# A port of this job's own, the same on every node."
    yield f"export MASTER_PORT=$(({_FIRST_PORT} + SLURM_JOB_ID % 10000))"


def visible(spec: Spec) -> dict[str, str]:
    """Return what enroot's hooks mount devices by, of which it mounts none if they are not set.

    Slurm's own limits hold all the same: a GPU that is not the job's is refused when it is opened.
    """
    found: dict[str, str] = {}
    if spec.has_nvidia_gpus:
        found |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    if spec.network.devices != TCP:
        found["MELLANOX_VISIBLE_DEVICES"] = "all"
    return found


def _secret(spec: Spec) -> Iterator[str]:
    if not has_secret(spec):
        yield ""
        return
    yield f'export RDMATRAIN_SECRET_FILE="{secret_file(spec)}"'
    if spec.secret.create:
        yield 'if [[ ! -s "$RDMATRAIN_SECRET_FILE" ]]; then'
        yield '  (umask 077; mkdir -p "${RDMATRAIN_SECRET_FILE%/*}"'
        yield '   head -c 32 /dev/urandom | base64 >"$RDMATRAIN_SECRET_FILE")'
    else:
        yield 'if [[ ! -r "$RDMATRAIN_SECRET_FILE" ]]; then'
        yield '  echo "no secret in $RDMATRAIN_SECRET_FILE: make one with head -c 32 /dev/urandom |'
        yield '  base64, that only you can read" >&2'
        yield f"  exit {NO_JOB}"
    yield "fi"
    yield ""


def _step(spec: Spec) -> Iterator[str]:
    options = ["--nproc-per-node", str(spec.nproc), "--max-restarts", str(spec.max_restarts)]
    if spec.monitoring.port:
        options += ["--metrics-port", str(spec.monitoring.port)]
    if spec.preflight:
        options.append("--preflight")
    line = shlex.join(run_line(spec.command).with_options(options))
    yield "# Of Pyxis: empty the list where rdmatrain is installed on the nodes themselves."
    yield "container=("
    yield f"  --container-image={shlex.quote(pyxis_image(spec.image))}"
    for mount in _mounts(spec):
        yield f"  --container-mounts={mount}"
    yield ")"
    yield "ended=$(mktemp)"
    yield "step() {"
    yield "  local code=0"
    yield "  trap : TERM USR1"
    yield "  # srun does not take the CPUs of a task from sbatch, and would give it one."
    yield "  # Each launcher sees to its own workers, and hears of the others' ends by itself."
    yield '  srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\'
    yield '    --kill-on-bad-exit=0 --wait=0 "${container[@]}" \\'
    yield f"    {line} || code=$?"
    yield '  echo "$code" >"$ended"'
    yield "}"
    yield "step &"
    yield "job=$!"


def _mounts(spec: Spec) -> Iterator[str]:
    paths = [spec.checkpoint.path] if spec.checkpoint.claim else []
    places = ",".join(f"{path}:{path}" for path in (*paths, *spec.volumes))
    # Quotes about commas, too, which shlex takes for harmless and shellcheck for an array's.
    mounts = "'{}'".format(places.replace("'", "'\"'\"'")) if places else ""
    if has_secret(spec):
        comma = "," if places else ""
        yield f'"$HOME/.rdmatrain:$HOME/.rdmatrain{comma}"{mounts}'
    elif mounts:
        yield mounts


def _wait() -> Iterator[str]:
    yield "timed_out="
    yield "# To the steps, which are the launchers, and not to this script."
    yield "trap 'timed_out=1; scancel --signal=TERM \"$SLURM_JOB_ID\"' USR1"
    yield "# What ends the job, as scancel does, sends it to all: they have their time to save."
    yield "trap : TERM"
    yield "# A signal ends a wait early, and what a second one says is not to be relied on."
    yield 'while kill -0 "$job" 2>/dev/null; do wait "$job" || true; done'
    yield 'code=$(cat "$ended")'
    yield "code=${code:-1}"
    yield 'rm -f "$ended"'
    yield ""


def _end(spec: Spec) -> Iterator[str]:
    faults = "|".join(f"{code}:*" for code in RETRYABLE if code != PREEMPTED)
    yield _RULE
    yield "# Slurm counts all starts of a job; its faults are lines of a file that all nodes see."
    # Clusters may share a home, and each has jobs of the same numbers.
    yield 'faults=~/".rdmatrain/${SLURM_CLUSTER_NAME:-slurm}-$SLURM_JOB_ID.faults"'
    yield "starts=${SLURM_RESTART_COUNT:-0}"
    yield "again="
    yield 'case "$code:$timed_out" in'
    yield f"  {PREEMPTED}:1) # The time is up, and the workers have saved."
    yield "    again=1 ;;"
    yield f"  {PREEMPTED}:*) # Stopped: by somebody, or by Slurm, which may start it again itself."
    yield '    exit "$code" ;;'
    yield f"  {faults})"
    # A file of the first start is of another job, whose number Slurm has given away again.
    yield '    ((starts)) || rm -f "$faults"'
    yield '    if (umask 077 && mkdir -p "${faults%/*}" && echo "$code" >>"$faults"); then'
    yield f'      (($(wc -l <"$faults") > {spec.max_restarts})) || again=1'
    yield "    else"
    yield '      echo "faults cannot be counted in $faults: the job is not started again" >&2'
    yield "    fi ;;"
    yield "esac"
    # Also where a home is a node's own, and knows nothing of faults of other nodes.
    yield f"((starts < {_MOST_STARTS})) || again="
    yield 'if [[ -z "$again" ]] || ! scontrol requeue "$SLURM_JOB_ID"; then'
    yield '  rm -f "$faults"'
    yield "fi"
    yield 'exit "$code"'
