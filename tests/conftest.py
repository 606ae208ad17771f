# SPDX-License-Identifier: Apache-2.0
"""What all tests take for granted of the process that runs them."""

import signal

# A shell has what it runs in the background ignore Ctrl-C, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
