"""Settings of the garbage collector, which Python imports by this name before anything else.

A process of a cluster imports 1,500 modules, all of which stay; it would look through them for garbage at
every 700 objects more.
"""

import gc

gc.set_threshold(100_000)
