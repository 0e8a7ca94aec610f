"""Examples of the OpenAPI document: a command for each of the main routes, which follow one another."""

from typing import Any

CURL = "x-codeSamples"
"""Where other programs, too, look for samples of an operation."""

BASE_URL = "http://127.0.0.1:8000"


def curl(path: str, arguments: str = "", before: str = "") -> dict[str, Any]:
    """Return an operation's example: curl of a path, with arguments after the URL and before it."""
    url = f"{BASE_URL}{path}"
    words = ["curl", before, f"'{url}'" if "?" in url else url, arguments]
    return {CURL: [{"lang": "curl", "source": " ".join(word for word in words if word)}]}


def curl_json(path: str, body: str) -> dict[str, Any]:
    """Return the example of an operation that takes JSON."""
    return curl(path, f"-H 'Content-Type: application/json' \\\n  -d '{body}'", "-X POST")
