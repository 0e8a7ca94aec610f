"""Prints the uv command that installs what pip would here: ``pip config list | uv_command.py uv``.

Not for use alone: environment.sh reads it, one word a line. uv reads neither pip.conf nor PIP_*, and there
stand the mirror, the certificate, the folder of wheels or the cap on a version that this machine needs. Where
pip has a setting that uv is not known to follow, this ends with status 1 and names it; pip then installs.
"""

import ast
import os
import sys
from collections.abc import Iterator, Mapping

SECTIONS = ("global", "install", ":env:")
"""Where pip's ``install`` finds its settings; a later one has the last word."""

OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
"""Settings of one word or several, and the option of uv that takes each of the words."""

FLAGS = {"no-index": "--no-index", "no-cache-dir": "--no-cache"}

VARIABLES = {
    "cert": ("SSL_CERT_FILE",),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
}

WITHOUT_EFFECT = frozenset(
    {
        "break-system-packages",
        "cache-dir",
        "compile",
        "config-file",
        "disable-pip-version-check",
        "log",
        "no-color",
        "no-compile",
        "no-input",
        "no-python-version-warning",
        "no-warn-conflicts",
        "no-warn-script-location",
        "progress-bar",
        "quiet",
        "require-virtualenv",
        "retries",
        "root-user-action",
        "verbose",
    }
)
"""Settings that change nothing about what is installed into a virtual environment."""


class NotKnown(ValueError):
    """A setting of pip that uv is not known to follow."""


def settings(listing: str) -> dict[str, str]:
    """What ``pip config list`` shows for ``pip install``, in lines as ``global.find-links='/opt/wheels'``."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    return {key: value for section in SECTIONS for key, value in found[section].items() if value}


def command(uv: str, pip: Mapping[str, str]) -> list[str]:
    """The words of ``uv pip install``, with its environment; raises NotKnown.

    Of two indices that have a package, pip takes the highest version in either, so must uv.
    """
    install = [uv, "pip", "install", "--index-strategy", "unsafe-best-match"]
    return ["env", *variables(pip), *install, *options(pip)]


def variables(pip: Mapping[str, str]) -> Iterator[str]:
    """Environment variables of uv for what pip's configuration says."""
    for key, value in pip.items():
        for name in VARIABLES.get(key, ()):
            yield f"{name}={os.path.expanduser(value)}"


def options(pip: Mapping[str, str]) -> Iterator[str]:
    """Options of uv for what pip's configuration says."""
    for key, value in pip.items():
        if key in OPTIONS:
            for word in value.split():
                yield from (OPTIONS[key], os.path.expanduser(word))
        elif key in FLAGS:
            if value.lower() in ("1", "true", "yes", "on"):
                yield FLAGS[key]
        elif key not in VARIABLES and key not in WITHOUT_EFFECT:
            raise NotKnown(f"uv is not known to follow pip's setting {key}: pip installs.")


if __name__ == "__main__":
    try:
        print("\n".join(command(sys.argv[1], settings(sys.stdin.read()))))
    except NotKnown as setting:
        sys.exit(str(setting))
