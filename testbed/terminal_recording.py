"""``scripts/record_terminal``: what the command line shows, as a page of text, on a real service."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from serve_app.config.free_ports import free_ports
from testbed.launched import ROOT, Launched

COLUMNS = 100
LEAST_S = 0.2
"""Of a line that is drawn again and again, between two of its states in the recording."""
SHOWN_ROOT = "/opt/wan-serve"
_COMMAND = "wan-serve "
_STEERS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_HEAD = f"""# What a terminal shows

Recorded by `scripts/record_terminal` on a service with the demo model, on CPUs; the checkout is shown as
`{SHOWN_ROOT}`. A line that is drawn in place is here line by line, with the seconds before it.
[cli.md](cli.md) has every command."""

COMMANDS = (
    "wan-serve doctor CONFIG",
    'wan-serve submit "a green star growing on a white background" --output star.mp4',
    'wan-serve submit "a red ball moving left to right on a blue background" --steps 60 --wait',
    "wan-serve status",
    "wan-serve list",
    'wan-serve submit "a red ball" --steps 0',
)


def main() -> int:
    """Write the page to the file that the command line names."""
    with tempfile.TemporaryDirectory(prefix="wan-serve-recording-") as name:
        folder = Path(name)
        (port,) = free_ports(1)
        models = [{"name": "demo", "variant": "demo", "weights": str(ROOT / "models/demo/weights")}]
        sections = [_HEAD]
        with Launched(folder, port, models=models) as launched:
            sections.append(_section(COMMANDS[0], folder, port))  # before the port is taken
            launched.start()
            sections += [_section(command, folder, port) for command in COMMANDS[1:]]
            launched.terminate()
    Path(sys.argv[1]).write_text("\n\n".join(sections) + "\n")
    return 0


def _section(command: str, folder: Path, port: int) -> str:
    arguments = shlex.split(command.removeprefix(_COMMAND))
    lines = list(_recorded([each.replace("CONFIG", "serve_config.yaml") for each in arguments], folder, port))
    text = "\n".join(lines).replace(str(ROOT), SHOWN_ROOT).replace(str(folder), "/srv/wan")
    shown = "\n".join(_folded(line) for line in text.splitlines())
    return f"```\n$ {command.replace('CONFIG', 'serve_config.yaml')}\n{shown}\n```"


def _folded(line: str) -> str:
    """Return a line as a terminal shows it, which goes on below where it ends."""
    return "\n".join(line[start : start + COLUMNS] for start in range(0, max(len(line), 1), COLUMNS))


def _recorded(arguments: list[str], folder: Path, port: int) -> Iterator[str]:
    """Yield the lines that a command draws on a terminal, each as it last was for a while, if it differs."""
    terminal, side = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_app.cli", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "WAN_SERVE_URL": f"http://127.0.0.1:{port}",
        },
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    began, drawn_at, line, shown = time.monotonic(), -LEAST_S, "", ""
    with suppress(OSError):  # which is how a terminal ends
        while part := os.read(terminal, 65536).decode(errors="replace"):
            for piece in re.split(r"([\r\n]+)", _STEERS.sub("", part)):
                if piece.strip("\r\n"):
                    line += piece
                    continue
                now = time.monotonic() - began
                if "\n" in piece and line:
                    yield line.rstrip()
                elif line and piece and line != shown and now - drawn_at >= LEAST_S:
                    drawn_at, shown = now, line
                    yield f"{now:6.1f} s  {line.rstrip()}"
                line = "" if piece else line
    if line.strip():
        yield line.rstrip()
    os.close(terminal)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
