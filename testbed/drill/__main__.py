"""``scripts/drill``: drill a service on this machine and print which promises it kept."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from testbed.drill.drill import DrillPlan, Outcome, drill
from testbed.drill.node_losses import drill_nodes
from testbed.drill.outages import drill_outages
from testbed.drill.upgrades import drill_upgrades

COLUMNS = (
    *("acknowledged", "lost", "duplicated", "changed", "stuck", "failed"),
    *("untold", "unseen", "unsent", "repeated", "kills"),
)
OF_SOME = (
    *("rolls", "runs killed", "attempts lost"),
    *("refused", "without Retry-After", "unanswered", "longest recovery s"),
    *("steps", "steps again"),
)
"""Columns of those drills that have them."""
OUTAGES_SUBMIT_EVERY_S = 1.5


def main() -> int:
    """Run one drill and return the exit status: 0 where every promise was kept, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="scripts/drill",
        description="Submit tasks, kill parts of the service, and check that nothing is lost or done twice.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("faults", "upgrade", "outages", "nodes"),
        default="faults",
        help="of a service, of two in turn, of the database and the bucket, or of many nodes",
    )
    parser.add_argument("--tasks", type=int, default=200, help="of upgrades and nodes: the least number")
    parser.add_argument("--kills", type=int, default=30, help="or upgrades, outages, or losses of nodes")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and of the tasks")
    parser.add_argument(
        "--pause", type=float, nargs=2, default=(0.5, 2.5), metavar=("LEAST", "MOST"), help="s between faults"
    )
    parser.add_argument("--away", type=float, default=30.0, help="s that a database or bucket is away")
    parser.add_argument("--slow", type=float, default=60.0, help="s that it is slow")
    parser.add_argument("--gpu-nodes", type=int, default=6, help="beside the head and the front node")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wan-serve-drill-") as folder:
        outcome = _drilled(options, Path(folder))
    for promise in outcome.verdict.broken():
        print(promise, file=sys.stderr)
    print(json.dumps(outcome.as_json()) if options.json else table(outcome))
    return 0 if outcome.is_clean else 1


def _drilled(options: argparse.Namespace, folder: Path) -> Outcome:
    every_s = OUTAGES_SUBMIT_EVERY_S if options.what == "outages" else None
    plan = DrillPlan(
        options.tasks,
        options.kills,
        options.seed,
        pause_s=tuple(options.pause),
        submit_every_s=every_s,
        keeps_busy=options.what in ("upgrade", "nodes"),
    )
    if options.what == "outages":
        return drill_outages(plan, folder, away_s=options.away, slow_s=options.slow)
    if options.what == "nodes":
        return drill_nodes(plan, folder, gpu_nodes=options.gpu_nodes)
    return (drill_upgrades if options.what == "upgrade" else drill)(plan, folder)


def table(outcome: Outcome) -> str:
    """Return the figures as Markdown."""
    figures = outcome.as_json()
    columns = [*COLUMNS, *(column for column in OF_SOME if column in figures)]
    rows = [columns, ["---:"] * len(columns), [str(figures[column]) for column in columns]]
    kinds = [f"- {kind}: {count}" for kind, count in sorted(outcome.kills.items())]
    ended = ", ".join(f"{count} {status}" for status, count in sorted(outcome.verdict.outcomes.items()))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *kinds, "", f"Tasks ended: {ended}."])


if __name__ == "__main__":
    sys.exit(main())
