"""The wait for a server that was just started, until it takes connections."""

import socket
import subprocess
import time

START_S = 60.0
_PAUSE_S = 0.02


def is_listening(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until somebody listens at a port of 127.0.0.1; return False if it ends first, or is late."""
    ends_at = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < ends_at:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(_PAUSE_S)
    return False
