"""Settings of the S3 service that holds the artifacts."""

from pydantic import Field, SecretStr, model_validator

from serve_app.config.section import Section


class S3Settings(Section):
    """The S3 service of ``artifacts_url``; what is left out is found as all AWS clients find it."""

    endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="where the service answers, as `http://minio:9000`; by default AWS",
    )
    region: str | None = Field(default=None, description="region of the bucket")
    path_style: bool | None = Field(
        default=None,
        description="whether the bucket is named in the path; by default where endpoint_url is set",
    )
    access_key_id: str | None = Field(
        default=None, min_length=1, description="by default from the environment, a file or the node's role"
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="the secret of access_key_id; keep the configuration as secret as it is"
    )
    redirect_downloads: bool = Field(
        default=False,
        description="whether videos are sent by the S3 service itself, by a 307 to a URL that is valid for "
        "minutes; else by this one",
    )
    public_endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="where clients reach the S3 service for redirect_downloads, if not at endpoint_url",
    )

    @property
    def addressing_style(self) -> str:
        """How requests name the bucket, as AWS's clients call that."""
        is_in_path = self.endpoint_url is not None if self.path_style is None else self.path_style
        return "path" if is_in_path else "auto"

    @model_validator(mode="after")
    def _both_parts_of_a_key(self) -> "S3Settings":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id: goes with secret_access_key; give both or neither")
        return self
