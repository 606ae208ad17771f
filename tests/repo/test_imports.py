# SPDX-License-Identifier: Apache-2.0
"""What must work in a pod whose torch is broken imports no torch."""

import subprocess
import sys

import pytest

MODULES = ["rdmatrain", "rdmatrain.cli", "rdmatrain.config", "rdmatrain.errors"]
MODULES += ["rdmatrain.launcher", "rdmatrain.autoload", "rdmatrain._core"]
MODULES += ["rdmatrain.discovery.survey", "rdmatrain.discovery.snapshot", "rdmatrain.topo.svg"]
MODULES += ["rdmatrain.discovery.importers", "rdmatrain.discovery.probes", "rdmatrain.topo.whoami"]

COMMANDS = ["--version", "--help", "topo", "topo --json", "topo --dump -", "topo --svg -", "whoami"]
# What takes longer to import than all the rest, and is of no use here.
HEAVY = {"torch", "numpy", "yaml", "matplotlib", "xml.etree.ElementTree", "asyncio"}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_to_answer_at_once_imports_nothing_heavy(command):
    code = (
        "import sys; from rdmatrain.cli import cli\n"
        f"cli({command.split()}, standalone_mode=False)\n"
        f"print({HEAVY} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == "set()\n"
    assert done.stdout
