"""The prompt enhancer: asks a chat model at an OpenAI-compatible endpoint to write a prompt out.

The endpoint is the operator's own, so any address may be asked. Redirects are not followed: the key is for
that endpoint alone.
"""

import asyncio
import logging
import re
from collections.abc import Mapping

import httpx
from pydantic import BaseModel, Field, ValidationError

from serve_app.config.prompt_enhancer_settings import PromptEnhancerSettings
from serve_app.media.public_http import trusting_context
from serve_app.tasks.task import MAX_PROMPT_CHARS

_SYSTEM_PROMPT = """\
You write prompts for Wan, a model that makes short videos from text. Rewrite the user's text as one such \
prompt. Keep every subject, action, number, name, quoted text and style that the user names, and contradict \
none of it. Describe, in this order: the subject and what it looks like; the scene around it; what moves, \
how and how fast; the camera's framing and movement; the light and the mood. Use plain, concrete words and \
the present tense, 80 to 100 words in one paragraph, in the language of the user's text. Answer with the \
prompt alone: no title, no list, no quotation marks, no comment."""

_WITH_PICTURE = """
The video begins with a picture that you do not see. Describe what happens from there on, and nothing of \
what the picture shows beyond the user's own words."""

_MAX_ANSWER_BYTES = 256 * 1024
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_QUOTED = re.compile(r"""\A(?:"[^"]*"|“[^“”]*”|「[^「」]*」)\Z""")

_logger = logging.getLogger("ray.serve")


class NotEnhanced(Exception):
    """There is no enhanced prompt; the text is a clause for the client, without an address."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class PromptEnhancer:
    """Asks for one enhanced prompt at a time; each question has a connection of its own."""

    def __init__(self, settings: PromptEnhancerSettings) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/") + "/chat/completions"

    async def enhance(self, prompt: str, *, has_picture: bool) -> str:
        """Return ``prompt`` written out. Raises ``NotEnhanced`` for whatever goes wrong.

        ``has_picture``: whether the video begins with a picture, which the chat model is not shown.
        """
        timeout_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(prompt, has_picture)
        except TimeoutError:
            raise NotEnhanced(f"the prompt enhancer did not answer within {timeout_s:g} s") from None
        except NotEnhanced:
            raise
        except Exception as error:  # of httpx, TLS or the system; their texts may name addresses
            _logger.warning("the prompt enhancer could not be asked: %s", type(error).__name__)
            raise NotEnhanced("the prompt enhancer could not be reached") from None
        return _prompt_of(answer)

    async def _ask(self, prompt: str, has_picture: bool) -> bytes:
        client = httpx.AsyncClient(verify=trusting_context(), trust_env=False, timeout=None)
        async with (
            client,
            client.stream(
                "POST", self._url, headers=self._headers(), json=self._body(prompt, has_picture)
            ) as response,
        ):
            if not response.is_success:
                raise NotEnhanced(f"the prompt enhancer answered with status {response.status_code}")
            answer = bytearray()
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > _MAX_ANSWER_BYTES:
                    raise NotEnhanced("the prompt enhancer's answer was too large")
            return bytes(answer)

    def _headers(self) -> Mapping[str, str]:
        # Uncompressed, so that the bytes that are counted are all there are.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "wan-serve"}
        if self._settings.key is not None:
            headers["Authorization"] = f"Bearer {self._settings.key.get_secret_value()}"
        return headers

    def _body(self, prompt: str, has_picture: bool) -> Mapping[str, object]:
        system = self._settings.system_prompt or _SYSTEM_PROMPT
        return {
            "model": self._settings.model,
            "messages": [
                {"role": "system", "content": system + (_WITH_PICTURE if has_picture else "")},
                {"role": "user", "content": prompt},
            ],
            "max_tokens": self._settings.max_tokens,
            "stream": False,
        }


def _prompt_of(answer: bytes) -> str:
    """Return the prompt in a chat completion, without what chat models put around it."""
    try:
        choice = _Completion.model_validate_json(answer).choices[0]
    except ValidationError:
        raise NotEnhanced("the prompt enhancer's answer was no chat completion") from None
    if choice.finish_reason == "length":
        raise NotEnhanced("the prompt enhancer's answer was cut off at its longest length")
    # PostgreSQL stores no NUL.
    text = _THOUGHTS.sub("", choice.message.content or "").replace("\0", "").strip()
    if _QUOTED.match(text):
        text = text[1:-1].strip()
    if not text:
        raise NotEnhanced("the prompt enhancer's answer was empty")
    if len(text) > MAX_PROMPT_CHARS:
        raise NotEnhanced(f"the prompt enhancer's answer was longer than {MAX_PROMPT_CHARS} characters")
    return text
