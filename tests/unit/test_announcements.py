"""What a launch says: sentences, or with --json a document on each line and nothing else."""

import json
import sys
from contextlib import redirect_stdout

import pytest

from serve_app.launch.announcements import Announcements

URL = "http://127.0.0.1:8000"


def test_people_are_told_in_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    announce = Announcements()
    announce.ready(URL, "127.0.0.1:8265", "/token")
    announce.ready(URL, None, None)
    announce.draining("wan-serve", 6.0)
    announce.failed("It does not start.")
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"Wan Serve is ready at {URL}",
        "The Ray dashboard is at http://127.0.0.1:8265, its token in /token",
        f"Wan Serve is ready at {URL}",
        "Running tasks have 6 s to end; another signal hands them back now.",
    ]
    assert said.err == "It does not start.\n"


def test_programs_get_a_document_on_each_line_whatever_else_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announce = Announcements(as_json=True)
    with redirect_stdout(sys.stderr):
        print("Ray's own words")
        announce.ready(URL, "127.0.0.1:8265", None)
        announce.draining("wan-serve", 6.0)
        announce.failed("It does not start.")
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {
            "event": "ready",
            "url": URL,
            "dashboard": "http://127.0.0.1:8265",
            "dashboard_token_file": None,
        },
        {"event": "draining", "application": "wan-serve", "seconds": 6.0},
        {"event": "failed", "reason": "It does not start."},
    ]
    assert said.err == "Ray's own words\nIt does not start.\n"
