"""``python -m bench NAME [arguments]`` runs the benchmark of that name."""

import importlib
import sys

BENCHMARKS = {
    "demo": "how well the demo model follows its prompts, plain and under each setting that costs quality",
    "eta": "how good the estimates are of when a task ends, in a steady mixed load",
    "engine": "one generation on this machine: seconds for each step, the text, the decoding; memory",
    "gpu": "all that ten minutes of one GPU can tell: gates, kernels, steps, decodes, runs; random weights",
    "communication": "what a group's devices send each other in a step, and how it should scale: counted",
    "bytes": "what the engine moves on a GPU beside its products, attention and convolutions: counted",
    "memory": "what each model needs of a device's memory, in GB: counted",
    "service": "what the service adds: requests per second, latency, idle time between two tasks",
    "door_time": "processor time of a request in the front door, without proxy and cluster",
    "hostile_videos": "what hostile videos take before they are refused, beside a benign one",
    "idle": "what an idle service takes: processor time, memory and log, by process",
    "scale": "how far one service goes: slots kept busy, a burst, replicas that follow a load",
}
USAGE = "\n".join(
    [
        "Usage: scripts/bench NAME [arguments]; scripts/bench NAME --help lists a benchmark's own.",
        "",
        *(f"  {name:<15}{what}" for name, what in BENCHMARKS.items()),
    ]
)


def main(arguments: list[str]) -> int:
    """Hand the arguments on to the benchmark and return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    name, *rest = arguments
    if name not in BENCHMARKS:
        print(f"There is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    return importlib.import_module(f"bench.{name}").main(rest) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
