"""What an idle service takes of a machine: processor time, memory and log, by process."""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.machine import describe
from testbed.cluster import free_port
from testbed.launched import ROOT, Launched

_SETTLES_S = 30.0
_MODEL = {
    "name": "demo",
    "variant": "demo",
    "weights": str(ROOT / "models/demo/weights"),
    "autoscaling": {"min_replicas": 1, "max_replicas": "auto"},
}
_KINDS = (
    ("ray::ServeReplica:wan-serve:coordinator", "coordinator"),
    ("ray::ServeReplica:wan-serve:model-", "model replica"),
    ("ray::ServeReplica:wan-serve:api", "ingress replicas"),
    ("ray::ServeReplica:wan-serve:idle", "other replicas"),
    ("ray::ServeController", "Serve's controller"),
    ("ray::ProxyActor", "Serve's own proxy"),
    ("ray::HAProxyManager", "HAProxy's manager"),
    ("haproxy", "HAProxy and what watches it"),
    ("gcs_server", "GCS"),
    ("raylet", "raylet"),
    ("autoscaler/_private/monitor.py", "autoscaler's monitor"),
    ("ray::DashboardAgent", "node agent"),
    ("ray::RuntimeEnvAgent", "agent of runtime environments"),
    ("from multiprocessing", "dashboard"),
    ("ray-dashboard", "dashboard"),
    ("dashboard/dashboard.py", "dashboard"),
    ("serve_app.cli", "launcher and supervisor"),
)
"""What a process is called, by a part of its command line; the first one that is found."""


@dataclass(frozen=True, slots=True)
class Share:
    """What the processes of one kind take."""

    processes: int
    cpu_percent: float
    """Of one core."""
    pss_mb: float
    """Memory, that which is shared divided among those that share it."""
    rss_mb: float


def main(arguments: Sequence[str]) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look (default: 60)")
    parser.add_argument("--ingress-replicas", type=int, default=2, help="default: 2, as in serve_config.yaml")
    parser.add_argument(
        "--bare", action="store_true", help="an application that does nothing, in ours' place"
    )
    parser.add_argument("--no-dashboard", action="store_true", help="as of wan-serve serve")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        launched = Launched(
            Path(folder),
            free_port(),
            import_path="bench.door_applications:idle" if options.bare else "",
            models=[_MODEL],
            ingress_replicas=options.ingress_replicas,
        )
        with launched:
            launched.start(*(["--no-dashboard"] if options.no_dashboard else []), whole=True)
            time.sleep(_SETTLES_S)
            shares, log_kb_s = _look(launched.tree(), options.seconds)
            launched.terminate()
    if options.json:
        print(json.dumps({"log_kb_s": log_kb_s, **{kind: asdict(share) for kind, share in shares.items()}}))
        return 0
    print(describe())
    print(_table(shares))
    print(f"{log_kb_s:.2f} kB of log a second")
    return 0


def _look(processes: Sequence[psutil.Process], seconds: float) -> tuple[Mapping[str, Share], float]:
    """Return what each kind of process took for so long, and the kilobytes of log a second."""
    logs = _logs(processes)
    before, bytes_before = _cpu_s(processes), _size(logs)
    time.sleep(seconds)
    after, bytes_after = _cpu_s(processes), _size(logs)
    shares: dict[str, Share] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            kind, memory = _kind(process), process.memory_full_info()
            cpu_s = after.get(process.pid, 0.0) - before.get(process.pid, 0.0)
            own = Share(1, 100 * cpu_s / seconds, memory.pss / 1e6, memory.rss / 1e6)
            shares[kind] = _sum([shares[kind], own] if kind in shares else [own])
    return shares, (bytes_after - bytes_before) / seconds / 1000


def _sum(shares: Collection[Share]) -> Share:
    return Share(
        sum(share.processes for share in shares),
        sum(share.cpu_percent for share in shares),
        sum(share.pss_mb for share in shares),
        sum(share.rss_mb for share in shares),
    )


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((kind for part, kind in _KINDS if part in line), line[:60])


def _cpu_s(processes: Sequence[psutil.Process]) -> Mapping[int, float]:
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _logs(processes: Sequence[psutil.Process]) -> Path:
    """Return the folder of the logs of the Ray cluster that the processes are of."""
    for process in processes:
        if found := re.search(r"--session-dir=(\S+)|--session_dir=(\S+)", " ".join(process.cmdline())):
            return Path(found[1] or found[2]) / "logs"
    raise LookupError("there is no raylet")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _table(shares: Mapping[str, Share]) -> str:
    lines = ["| | processes | % of a core | MB | MB held |", "|---|---:|---:|---:|---:|"]
    busiest = sorted(shares.items(), key=lambda entry: -entry[1].cpu_percent)
    for kind, share in [*busiest, ("all", _sum(shares.values()))]:
        figures = f"{share.cpu_percent:.2f} | {share.pss_mb:.0f} | {share.rss_mb:.0f}"
        lines.append(f"| {kind} | {share.processes} | {figures} |")
    return "\n".join(lines)
