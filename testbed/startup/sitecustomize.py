"""Settings for a cluster's processes, which Python imports by this name before anything else."""

import gc
import os
import sys

# A process of a cluster imports 1,500 modules, all of which stay; it would look through them for garbage at
# every 700 objects more.
gc.set_threshold(100_000)

if "WAN_TESTBED_LEAN" in os.environ:
    from testbed.lean_node import leave_out_once_imported

    leave_out_once_imported()

if "WAN_TESTBED_FORKS" in os.environ and "".join(sys.orig_argv[1:2]).endswith("/workers/default_worker.py"):
    from testbed.fork_server import become_worker

    become_worker()
