"""The key of the prompt enhancer is read once, from one place, and shown in no text."""

from pathlib import Path

import pytest

from serve_app.config.section import SettingsError
from serve_app.config.settings import AppSettings, parse_settings


def parsed(folder: Path, **given: str) -> AppSettings:
    models = [{"name": "demo", "variant": "demo", "weights": str(folder)}]
    enhancer = {"url": "http://10.0.0.1/v1", "model": "chat", **given}
    return parse_settings({"data_dir": "data", "models": models, "prompt_enhancer": enhancer}, folder)


@pytest.mark.parametrize("given", [{"key": "sk-1"}, {"key_env": "CHAT_KEY"}, {"key_file": "key"}])
def test_the_key_is_read_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    monkeypatch.setenv("CHAT_KEY", "sk-1")
    settings = parsed(tmp_path, **given)
    assert settings.prompt_enhancer is not None and settings.prompt_enhancer.key is not None
    assert settings.prompt_enhancer.key.get_secret_value() == "sk-1" and "sk-1" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"key_env": "NO_SUCH_KEY"}, "prompt_enhancer.key_env: there is no environment variable NO_SUCH_KEY"),
        ({"key_file": "missing"}, "prompt_enhancer.key_file: .* cannot be read"),
        ({"key": "a\nb"}, "prompt_enhancer.key: a key is printable ASCII"),
        ({"key": "a", "key_env": "B"}, "prompt_enhancer.key: must not be given twice"),
        ({"url": "http://user:secret@host/v1"}, "prompt_enhancer.url: "),
    ],
)
def test_a_key_that_cannot_be_used_stops_the_start(
    tmp_path: Path, given: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        parsed(tmp_path, **given)
