"""An S3 bucket: the objects below one prefix of it."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from serve_app.config.s3_settings import S3Settings
from serve_app.errors import FileNotFound, StoreUnavailable
from serve_app.files.stored_file import CHUNK_BYTES

_CONNECT_S = 5
_READ_S = 20
_TRIES = 3
_LINK_S = 300
_CONNECTIONS = 32
_DELETED_AT_ONCE = 1000
"""As many as S3 takes."""
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_logger = logging.getLogger("ray.serve")

_Asked = ParamSpec("_Asked")
_Answer = TypeVar("_Answer")


def _translated(ask: Callable[_Asked, _Answer]) -> Callable[_Asked, _Answer]:
    """Return ``ask`` with the errors of this service: ``FileNotFound`` or ``StoreUnavailable``."""

    @functools.wraps(ask)
    def asked(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Answer:
        try:
            return ask(*args, **kwargs)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                raise FileNotFound("There is no such file.") from None
            raise _unavailable(error) from error
        except (BotoCoreError, HTTPError) as error:
            raise _unavailable(error) from error

    return asked


def _unavailable(error: Exception) -> StoreUnavailable:
    # The message of a client error may repeat what was sent, as an access key; its code says enough.
    said = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
    _logger.warning("the S3 service did not do as it was asked: %s", said)
    return StoreUnavailable("The store of the service's files does not answer; try again later.")


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What a bucket tells of an object."""

    size: int
    modified_at: float
    tag: str
    marks: Mapping[str, str]
    """What it was marked with, the names in lower case."""


class Bucket:
    """Objects by key; threads may share it. Every method may raise ``StoreUnavailable``.

    An object appears whole, by one request, or not at all: no upload is in parts that a crash would leave.
    """

    def __init__(self, name: str, prefix: str, settings: S3Settings) -> None:
        """``prefix``: of all keys, without slashes at its ends; may be empty."""
        self._name = name
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(settings, settings.endpoint_url)
        public = settings.public_endpoint_url
        self._public = self._client if public is None else _client(settings, public)
        self._redirects = settings.redirect_downloads

    @_translated
    def put(self, key: str, data: bytes, *, media_type: str, marks: Mapping[str, str] | None = None) -> None:
        """Store an object, over an older one."""
        self._client.put_object(**self._at(key), Body=data, ContentType=media_type, Metadata=marks or {})

    @_translated
    def put_file(self, key: str, path: Path, *, media_type: str) -> None:
        """Store the file at ``path``, over an older object. Raises ``OSError``."""
        with path.open("rb") as file:
            self._client.put_object(**self._at(key), Body=file, ContentType=media_type)

    @_translated
    def copy(self, source: str, target: str, *, media_type: str, marks: Mapping[str, str]) -> None:
        """Store a copy of an object, over an older one. Raises ``FileNotFound``."""
        self._client.copy_object(
            **self._at(target),
            CopySource=self._at(source),
            ContentType=media_type,
            Metadata=dict(marks),
            MetadataDirective="REPLACE",
        )

    @_translated
    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises ``FileNotFound``."""
        data: bytes = self._client.get_object(**self._at(key))["Body"].read()
        return data

    @_translated
    def facts(self, key: str) -> ObjectFacts:
        """Return what there is to know of an object. Raises ``FileNotFound``."""
        head = self._client.head_object(**self._at(key))
        marks = {name.lower(): mark for name, mark in head["Metadata"].items()}
        return ObjectFacts(
            head["ContentLength"], head["LastModified"].timestamp(), head["ETag"].strip('"'), marks
        )

    def chunks(self, key: str, begin: int, end: int) -> Iterator[bytes]:
        """Yield an object's bytes from ``begin`` to before ``end``, over broken connections too.

        Raises ``FileNotFound``.
        """
        tries = 0
        while begin < end:
            body = self._body(key, begin, end)
            try:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    begin, tries = begin + len(chunk), 0
                    yield chunk
            except (BotoCoreError, HTTPError) as error:
                tries += 1
                if tries == _TRIES:
                    raise _unavailable(error) from error
            finally:
                body.close()

    @_translated
    def _body(self, key: str, begin: int, end: int) -> Any:
        return self._client.get_object(**self._at(key), Range=f"bytes={begin}-{end - 1}")["Body"]

    @_translated
    def folders(self, key: str) -> Iterator[str]:
        """Return the names that lie below ``key`` and have objects below them."""
        prefix = f"{self._prefix}{key}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._name, Prefix=prefix, Delimiter="/"
        )
        found = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]
        return (each.removeprefix(prefix).rstrip("/") for each in found)

    @_translated
    def names(self, key: str) -> Sequence[str]:
        """Return the names, from ``key`` on, of all objects below it."""
        prefix = f"{self._prefix}{key}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix)
        return [each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", ())]

    @_translated
    def delete_folder(self, key: str) -> None:
        """Delete all objects below ``key``."""
        keys = [f"{self._prefix}{key}/{name}" for name in self.names(key)]
        for begin in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": each} for each in keys[begin : begin + _DELETED_AT_ONCE]]
            answer = self._client.delete_objects(
                Bucket=self._name, Delete={"Objects": objects, "Quiet": True}
            )
            if answer.get("Errors"):
                _logger.warning("not all objects could be deleted: %s", answer["Errors"][0].get("Code"))

    @_translated
    def delete(self, key: str) -> None:
        """Delete an object if there is one."""
        self._client.delete_object(**self._at(key))

    def link(self, key: str, *, disposition: str, media_type: str) -> str | None:
        """Return a URL by which whoever has it may read an object for some minutes, if that is set."""
        if not self._redirects:
            return None
        url: str = self._public.generate_presigned_url(
            "get_object",
            Params={
                **self._at(key),
                "ResponseContentDisposition": disposition,
                "ResponseContentType": media_type,
            },
            ExpiresIn=_LINK_S,
        )
        return url

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._prefix + key}


@functools.cache
def _session() -> Any:
    """Return the session of this process, which reads AWS's files and its description of S3 but once."""
    return boto3.session.Session()


def _client(settings: S3Settings, endpoint_url: str | None) -> Any:
    secret = settings.secret_access_key
    return _session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        config=Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"total_max_attempts": _TRIES, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
            signature_version="s3v4",
            s3={"addressing_style": settings.addressing_style},
            # Services other than AWS may know nothing of the newer checksums, and TLS guards the way.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
