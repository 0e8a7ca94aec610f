"""The store of artifacts that the settings name."""

from serve_app.config.settings import AppSettings
from serve_app.files.artifacts import Artifacts
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths


def open_artifacts(settings: AppSettings) -> Artifacts:
    """Return the folders of a service, or its bucket, of which nothing is asked yet."""
    outputs = OutputPaths(settings.outputs, settings.output_roots)
    if settings.artifacts_url is None:
        return LocalArtifacts(outputs, settings.data_dir)
    # Only here: the AWS client is an extra, and takes a while to import.
    from serve_app.files.bucket import Bucket
    from serve_app.files.s3_artifacts import S3Artifacts

    name, _, prefix = settings.artifacts_url.removeprefix("s3://").partition("/")
    return S3Artifacts(Bucket(name, prefix, settings.s3), outputs, settings.data_dir / "scratch")
