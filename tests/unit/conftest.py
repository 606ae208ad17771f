# SPDX-License-Identifier: Apache-2.0
"""Property tests draw the same examples in every run; with RANDOM_EXAMPLES=1 they draw others."""

import os

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize="RANDOM_EXAMPLES" not in os.environ)
settings.load_profile("same")
