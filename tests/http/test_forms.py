"""Forms as all kinds of clients write them: what they mean is taken, what they cannot mean is refused."""

import base64
import quopri
from typing import Any

import httpx
import pytest

from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from tests.http.http_service import HttpService, png
from tests.http.test_refusals import assert_refused

FORM = "/v1/tasks/video/form"
PROMPT = "ein Kätzchen, 猫"

Part = tuple[str, bytes]
"""The headers of a part after "Content-Disposition: form-data", and its content."""


def text(name: str, value: str | bytes, headers: str = "") -> Part:
    return f'; name="{name}"{headers}', value if isinstance(value, bytes) else value.encode()


def body(*parts: Part, end: str = "--B--\r\n") -> bytes:
    heads = (f"--B\r\nContent-Disposition: form-data{head}\r\n\r\n".encode() for head, _ in parts)
    return (
        b"".join(head + data + b"\r\n" for head, (_, data) in zip(heads, parts, strict=True)) + end.encode()
    )


async def send(
    service: HttpService, *parts: Part, content_type: str = "multipart/form-data; boundary=B", **changes: Any
) -> httpx.Response:
    headers = {"Content-Type": content_type}
    return await service.client.post(FORM, content=body(*parts, **changes), headers=headers)


async def made(service: HttpService, response: httpx.Response) -> Task:
    assert response.status_code == 200, response.text
    assert response.json()["message"].startswith("Task created successfully")
    assert "Unknown" not in response.json()["message"]
    return await service.store.get(EVERYONE, response.json()["task_id"])


@pytest.mark.parametrize(
    "content_type",
    [
        "Multipart/Form-Data; boundary=B",
        "MULTIPART/FORM-DATA; Boundary=B",
        'multipart/form-data;boundary="B"',
        "multipart/form-data ; charset=utf-8 ; boundary=B",
    ],
)
async def test_media_types_have_no_case(service: HttpService, content_type: str):
    response = await send(service, text("prompt", PROMPT), content_type=content_type)
    assert (await made(service, response)).spec.prompt == PROMPT


@pytest.mark.parametrize("content_type", ["multipart/form-data-x; boundary=B", "multipart/mixed; boundary=B"])
async def test_another_media_type_is_refused(service: HttpService, content_type: str):
    response = await send(service, text("prompt", PROMPT), content_type=content_type)
    assert assert_refused(response, 422)["field"] == "body"


@pytest.mark.parametrize(
    "part",
    [
        text("prompt", PROMPT),
        ("; name=prompt", PROMPT.encode()),
        text("prompt", PROMPT, "\r\nContent-Type: Text/Plain; Charset=UTF-8"),
        text("prompt", PROMPT.encode("utf-16"), "\r\nContent-Type: text/plain; charset=utf-16"),
        text("prompt", base64.encodebytes(PROMPT.encode()), "\r\nContent-Transfer-Encoding: BASE64"),
        text(
            "prompt", quopri.encodestring(PROMPT.encode()), "\r\nContent-Transfer-Encoding: quoted-printable"
        ),
        text("prompt", PROMPT, "\r\nContent-Transfer-Encoding: 8bit"),
    ],
)
async def test_text_is_read_in_the_encoding_that_it_says(service: HttpService, part: Part):
    assert (await made(service, await send(service, part))).spec.prompt == PROMPT


async def test_a_form_can_say_the_encoding_of_all_its_text(service: HttpService):
    for parts in (
        (text("_charset_", "iso-8859-1"), text("prompt", "Kätzchen".encode("latin-1"))),
        (text("prompt", "Kätzchen".encode("latin-1")), text("_charset_", "iso-8859-1")),
    ):
        assert (await made(service, await send(service, *parts))).spec.prompt == "Kätzchen"


@pytest.mark.parametrize(
    "part",
    [
        text("prompt", "Kätzchen".encode("latin-1")),
        text("prompt", PROMPT, "\r\nContent-Type: text/plain; charset=ascii"),
        text("prompt", "x", "\r\nContent-Type: text/plain; charset=nonsense"),
        text("prompt", "x", "\r\nContent-Type: text/plain; charset=base64"),
        text("prompt", "x", "\r\nContent-Type: text/plain; charset=punycode"),
    ],
)
async def test_text_that_is_not_in_its_encoding_is_refused_and_not_guessed(service: HttpService, part: Part):
    assert assert_refused(await send(service, part), 422)["field"] == "prompt"


@pytest.mark.parametrize(
    "part",
    [
        text("prompt", "x", "\r\nContent-Transfer-Encoding: base64"),
        text("prompt", "x", "\r\nContent-Transfer-Encoding: uuencode"),
        ("", b"x"),
        ('; name=""', b"x"),
        ('; filename="a.png"', png()),
    ],
)
async def test_a_part_that_cannot_be_read_is_refused(service: HttpService, part: Part):
    assert_refused(await send(service, text("prompt", "x"), part), 422)


@pytest.mark.parametrize(
    "headers",
    [
        '; filename="katze.png"',
        '; filename="Kätzchen; zwei.png"',
        '; filename="with \\"quotes\\".png"',
        '; filename="C:\\cats\\"',
        "; filename=katze.png",
        "; filename*=UTF-8''K%C3%A4tzchen.png",
        '; FileName="katze.png"',
        '; filename=""',
        "\r\nContent-Type: Image/PNG",
        "\r\nContent-Type: application/octet-stream",
        "",
    ],
)
async def test_a_file_is_a_file_whatever_it_is_called(service: HttpService, headers: str):
    response = await send(service, text("prompt", "x"), text("image_file", png(), headers))
    assert (await made(service, response)).spec.image_key is not None


async def test_a_file_input_without_a_choice_counts_as_not_sent(service: HttpService):
    empty = '; filename=""\r\nContent-Type: application/octet-stream'
    for name in ("image_file", "input_reference"):
        response = await send(service, text("prompt", "x"), text(name, b"", empty))
        assert (await made(service, response)).spec.image_key is None


@pytest.mark.parametrize("name", ["input_reference", "image", "image_path", "prompt", "Image_File"])
async def test_a_file_under_a_name_nobody_reads_is_refused_with_those_that_are(
    service: HttpService, name: str
):
    response = await send(service, text("prompt", "x"), text(name, png(), '; filename="a.png"'))
    refused = assert_refused(response, 422)
    assert refused["field"] == name
    assert "image_file" in refused["detail"] and "last_frame_file" in refused["detail"]
    assert sum((await service.store.counts()).values()) == 0


async def test_two_files_of_one_name_are_refused(service: HttpService):
    files = [text("image_file", png(size), f'; filename="{size}.png"') for size in (64, 96)]
    response = await send(service, text("prompt", "x"), *files)
    assert assert_refused(response, 422)["field"] == "image_file"


async def test_text_that_comes_twice_is_refused_unless_it_is_the_same(service: HttpService):
    twice = await send(service, text("prompt", "a cat"), text("prompt", "a dog"))
    assert assert_refused(twice, 422)["field"] == "prompt"
    await made(service, await send(service, text("prompt", "a cat"), text("prompt", "a cat")))
    unknown = await send(service, text("prompt", "x"), text("tags[]", "a"), text("tags[]", "b"))
    assert unknown.status_code == 200 and "tags[]" in unknown.json()["message"]


async def test_a_form_that_was_cut_off_is_refused(service: HttpService):
    picture = text("image_file", png(), '; filename="a.png"')
    response = await send(service, text("prompt", "x"), picture, end="")
    assert assert_refused(response, 422)["field"] == "body"


async def test_what_stands_around_the_parts_is_passed_over(service: HttpService):
    content = b"preamble\r\n" + body(text("prompt", PROMPT)) + b"epilogue"
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert (await made(service, await service.client.post(FORM, content=content, headers=headers))).spec


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("prompt=K%C3%A4tzchen+1", ""),
        ("prompt=Kätzchen+1", ""),
        ("prompt=K%E4tzchen%201", "; charset=iso-8859-1"),
    ],
)
async def test_an_urlencoded_form_is_taken(service: HttpService, content: str, kind: str):
    headers = {"Content-Type": f"Application/X-WWW-Form-URLencoded{kind}"}
    response = await service.client.post(FORM, content=content.encode(), headers=headers)
    assert (await made(service, response)).spec.prompt == "Kätzchen 1"


@pytest.mark.parametrize("content", [b"prompt=%ff", b"prompt=\xff", b"prompt=a&prompt=b", b"a=1&" * 200])
async def test_a_bad_urlencoded_form_is_refused(service: HttpService, content: bytes):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert_refused(await service.client.post(FORM, content=content, headers=headers), 422)


@pytest.mark.parametrize(
    ("field", "value"),
    [("infer_steps", "1_0"), ("guidance_scale", "1_0"), ("seed", "4_2"), ("size", "6_4x64")],
)
async def test_numbers_are_written_as_in_json(service: HttpService, field: str, value: str):
    response = await send(service, text("prompt", "x"), text(field, value))
    assert assert_refused(response, 422)["field"] == field
