"""The addresses of the stores in the environment, where a pod has them from a secret."""

import os
from collections.abc import Mapping

DATABASE_URL = "WAN_SERVE_DATABASE_URL"
ARTIFACTS_URL = "WAN_SERVE_ARTIFACTS_URL"
S3_ENDPOINT_URL = "WAN_SERVE_S3_ENDPOINT_URL"


def with_stores_of_the_environment(args: object) -> object:
    """Return the ``args`` of a configuration, its addresses replaced by those of the environment."""
    if not isinstance(args, Mapping):
        return args
    changed = dict(args)
    for name, key in ((DATABASE_URL, "database_url"), (ARTIFACTS_URL, "artifacts_url")):
        if os.environ.get(name):
            changed[key] = os.environ[name]
    if os.environ.get(S3_ENDPOINT_URL):
        s3 = changed.get("s3") or {}
        changed["s3"] = {**s3, "endpoint_url": os.environ[S3_ENDPOINT_URL]} if isinstance(s3, Mapping) else s3
    return changed
