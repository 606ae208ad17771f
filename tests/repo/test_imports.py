# SPDX-License-Identifier: Apache-2.0
"""What must work in a pod whose torch is broken imports no torch."""

import subprocess
import sys

import pytest

MODULES = ["rdmatrain", "rdmatrain.cli", "rdmatrain.config", "rdmatrain.errors"]
MODULES += ["rdmatrain.launcher", "rdmatrain.autoload", "rdmatrain._core"]


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
