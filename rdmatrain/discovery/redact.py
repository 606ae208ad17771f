"""Taking secrets and names out of a snapshot, so that it still replays to the same answers."""

import re

# Variables that discovery, NCCL and launchers read; a redacted snapshot has no others.
_KNOWN = re.compile(
    r"(PCIDEVICE|SRIOVNETWORK|NVIDIA|CUDA|HIP|ROCR|AMD|GPU|ZE|NCCL|RCCL|UCX|FI|RDMATRAIN|PET|VC|VK"
    r"|SLURM|OMPI|PRTE|PMI|PMIX|MPI|I_MPI|HYDRA|HYDI|K_MPI|LWS|JOBSET|JOB|MASTER|LOCAL|GROUP|ROLE"
    r"|TORCHELASTIC|KUBEFLOW|OMP|TPU)_.*"
    r"|JOBSET.*|HOSTNAME|RANK|WORLD_SIZE|PMI.*|NODE_RANK|NNODES|TF_CONFIG"
)
# What names of secrets have in them. A partition key (PKEY) is none.
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|COOKIE|JWT|(?<!_P)(?<!^P)KEY|^AWS_|_DSN$|_PAT$",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s@]+@", re.IGNORECASE)
# Where users, folders and command lines are named.
_PERSONAL = re.compile(r"USER|ACCOUNT|HOME|DIR$|_WDIR|COMMAND|COMMENT|ARGV|EMAIL", re.IGNORECASE)


def drop_variables(files: dict[str, str], only_known: bool) -> list[str]:
    """Take variables out of saved environments, in place.

    Args:
        files: texts by path; those of ``/proc/*/environ`` are changed.
        only_known: take out all that discovery does not know; else only what looks secret.

    Returns:
        What was taken out, in words.

    """
    removed = []
    for path in sorted(files):
        if not re.fullmatch(r"/proc/[^/]+/environ", path):
            continue
        kept, others = [], 0
        for variable in files[path].split("\0"):
            name, _, value = variable.partition("=")
            if _SECRET.search(name) or _USERINFO.search(value):
                removed.append(f"{path}: {name}")
            elif only_known and variable and not _is_known(name):
                others += 1
            else:
                kept.append(variable)
        files[path] = "\0".join(kept)
        if others:
            removed.append(f"{path}: {others} variables that discovery does not read")
    return removed


def _is_known(name: str) -> bool:
    return bool(_KNOWN.fullmatch(name)) and not _PERSONAL.search(name)
