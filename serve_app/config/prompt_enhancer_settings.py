"""The settings of the prompt enhancer: the chat model that it asks, and how."""

import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from serve_app.config.section import Seconds, Section, SettingsError


class PromptEnhancerSettings(Section):
    """The chat model that writes out the prompt of a request with ``enhance_prompt``."""

    url: str = Field(
        pattern=r"^https?://[^\s?#@]+$",
        description="an OpenAI-compatible endpoint, as `http://127.0.0.1:8001/v1`: /chat/completions below "
        "it is asked",
    )
    model: str = Field(min_length=1, description="the endpoint's name of the chat model")
    key: SecretStr | None = Field(
        default=None, description="the endpoint's API key; it need not stand in this file"
    )
    key_env: str | None = Field(
        default=None, min_length=1, description="the environment variable that holds the key instead"
    )
    key_file: Path | None = Field(default=None, description="a file that holds nothing but the key instead")
    timeout_s: Seconds = Field(
        default=20.0, description="how long an answer may take before the plain prompt is used"
    )
    max_tokens: int = Field(default=512, ge=1, le=65536, description="the longest answer that is asked for")
    system_prompt: str | None = Field(
        default=None,
        min_length=1,
        description="what the chat model is told to do; by default to describe scene, motion, camera and "
        "light in 80 to 100 words, in the prompt's language",
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if sum(given is not None for given in (self.key, self.key_env, self.key_file)) > 1:
            raise ValueError("key: must not be given twice; give one of key, key_env and key_file")
        return self

    def with_key(self, base: Path) -> Self:
        """Return these settings with the key read from where it is; relative paths begin at ``base``.

        Raises ``SettingsError``.
        """
        return self.model_copy(update={"key": self._read_key(base)})

    def _read_key(self, base: Path) -> SecretStr | None:
        place, text = "key", self.key and self.key.get_secret_value()
        if self.key_env is not None:
            place, text = "key_env", os.environ.get(self.key_env)
            if text is None:
                raise SettingsError(
                    f"args.prompt_enhancer.key_env: there is no environment variable {self.key_env}."
                )
        elif self.key_file is not None:
            place, file = "key_file", base / self.key_file.expanduser()
            try:
                text = file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                raise SettingsError(
                    f"args.prompt_enhancer.key_file: {file} cannot be read as a line of ASCII."
                ) from None
        if text is None:
            return None
        if not (text and text.isascii() and text.isprintable()):  # it goes into a header
            raise SettingsError(f"args.prompt_enhancer.{place}: a key is printable ASCII, and not empty.")
        return SecretStr(text)
