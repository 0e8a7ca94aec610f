"""All that the doctor looks at, one after the other."""

from collections.abc import Sequence
from pathlib import Path

from serve_app.doctor.devices import listed_by_driver, of_devices, seen_by_torch
from serve_app.doctor.finding import Finding
from serve_app.doctor.machine import of_machine
from serve_app.doctor.packages import of_packages
from serve_app.doctor.video import of_video


def examine(config: Path | None) -> Sequence[Finding]:
    """Return what is found about this machine, and with ``config`` about serving that on it."""
    findings = [*of_machine(), *of_packages()]
    report, gpus = seen_by_torch(), 0
    if isinstance(report, Finding):
        findings.append(report)
    else:
        listed = listed_by_driver()
        if isinstance(listed, Finding):
            findings.append(listed)
            listed = ()
        findings += of_devices(report, listed)
        gpus = len(report.devices)
    findings += of_video()
    if config is not None:
        from serve_app.doctor.configuration import of_configuration  # which imports Ray

        findings += of_configuration(config, gpus)
    return findings
