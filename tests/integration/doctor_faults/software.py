# SPDX-License-Identifier: Apache-2.0
"""Software that does not fit together, or is not there."""

from importlib.metadata import files
from importlib.util import find_spec
from pathlib import Path

from doctor_faults.fault import saved
from doctor_faults.sandbox import live

CORE = Path(getattr(find_spec("rdmatrain._core"), "origin", "")).resolve()
TORCH = r"""
mkdir -p "$HERE/other/torch-{0}.dist-info"
printf 'Metadata-Version: 2.1\nName: torch\nVersion: {0}\n' > "$HERE/METADATA"
mv "$HERE/METADATA" "$HERE/other/torch-{0}.dist-info/"
mkdir "$HERE/other/torch"; touch "$HERE/other/torch/__init__.py"
echo "__version__ = '{0}'" > "$HERE/other/torch/version.py"
"""

OWN = next(each for each in files("rdmatrain") or () if each.name == "METADATA").locate()
NEWER = f"""
sed 's/^Requires-Python: .*/Requires-Python: >=3.99/' {OWN} > "$HERE/METADATA"
mount --bind "$HERE/METADATA" {OWN}
"""

FAULTS = [
    live("a Python that is too old", "python", shell=NEWER),
    live(
        "torch of another minor than it was built for",
        "torch-abi",
        shell=TORCH.format("2.14.0"),
        env={"PYTHONPATH": "{here}/other"},
    ),
    live(
        "torch that is too old",
        "torch",
        shell=TORCH.format("1.13.1"),
        env={"PYTHONPATH": "{here}/other"},
    ),
    live(
        "libibverbs is not in the image",
        "rdma-core",
        options=("--transport", "verbs"),
        shell="for each in /usr/lib/*/libibverbs.so.1; do mount --bind /dev/null $each; done",
    ),
    saved(
        "NCCL for two majors of CUDA",
        "nccl",
        probes={
            "torch": {
                "metadata": "2.13.0",
                "file": "2.13.0+cu130",
                "place": "/usr/lib/python3/dist-packages/torch",
                "cuda": "13.0",
                "requires": "torch>=2.13",
                "nccl": {"nvidia-nccl-cu12": "2.27.5", "nvidia-nccl-cu13": "2.28.9"},
            }
        },
    ),
    live("the core is not there", "core-library", shell=f"mount --bind /dev/null {CORE}"),
    live(
        "the core is cut off",
        "core-library",
        shell=f'touch "$HERE/cut"; mount --bind "$HERE/cut" {CORE}',
    ),
]
