"""Bad input: each gets the right 4xx and a sentence that a person can act on, and the service goes on."""

import io
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from PIL import Image

from serve_app.tasks.caller import EVERYONE
from tests.http.http_service import HttpService, as_text, png, refusal_of, running, settings

PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n"


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()[:1000]


def huge_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def assert_refused(response: httpx.Response, status: int) -> dict[str, str]:
    """Assert that an answer is a refusal: the status, a sentence, a code, no path or trace of the server."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = refusal_of(response)
    assert set(body) - {"field"} == {"detail", "code"}
    assert isinstance(body["detail"], str) and len(body["detail"]) > 10 and body["code"]
    for secret in ("Traceback", "/tmp/", "/usr/", "site-packages", 'File "', "pydantic", "sqlite"):
        assert secret not in response.text
    return body


WRONG_FIELDS = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": " \n\t "}, "prompt"),
    ({"prompt": "x" * 5000}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": ["a cat"]}, "prompt"),
    ({"prompt": {"text": "a cat"}}, "prompt"),
    ({"prompt": "a\0cat"}, "prompt"),
    ({"prompt": "\ud83d"}, "prompt"),
    ({"negative_prompt": "x" * 5000}, "negative_prompt"),
    ({"negative_prompt": "\udfff"}, "negative_prompt"),
    ({"infer_steps": 0}, "infer_steps"),
    ({"infer_steps": 201}, "infer_steps"),
    ({"infer_steps": -4}, "infer_steps"),
    ({"infer_steps": "abc"}, "infer_steps"),
    ({"infer_steps": "4"}, "infer_steps"),
    ({"infer_steps": 4.5}, "infer_steps"),
    ({"infer_steps": True}, "infer_steps"),
    ({"infer_steps": [4]}, "infer_steps"),
    ({"infer_steps": 10**300}, "infer_steps"),
    ({"video_duration": 0}, "video_duration"),
    ({"video_duration": -1}, "video_duration"),
    ({"video_duration": 601}, "video_duration"),
    ({"video_duration": "5s"}, "video_duration"),
    ({"video_duration": False}, "video_duration"),
    ({"num_frames": 0}, "num_frames"),
    ({"num_frames": 10**9}, "num_frames"),
    ({"num_frames": 9, "target_video_length": 13}, "target_video_length"),
    ({"fps": 0}, "fps"),
    ({"fps": 1000}, "fps"),
    ({"seed": -2}, "seed"),
    ({"seed": 2**53}, "seed"),
    ({"seed": "forty-two"}, "seed"),
    ({"width": 0}, "width"),
    ({"width": -832}, "width"),
    ({"height": 15}, "height"),
    ({"height": 100_000}, "height"),
    ({"size": "big"}, "size"),
    ({"size": "832"}, "size"),
    ({"size": "0x0"}, "size"),
    ({"size": "99999x99999"}, "size"),
    ({"size": [832]}, "size"),
    ({"size": [480, 8]}, "size"),
    ({"size": ["480", "832"]}, "size"),
    ({"size": "[480"}, "size"),
    ({"size": {"height": 480}}, "size"),
    ({"size": 832}, "size"),
    ({"size": [64, 96], "width": 64}, "size"),
    ({"aspect_ratio": "wide"}, "aspect_ratio"),
    ({"aspect_ratio": "16:0"}, "aspect_ratio"),
    ({"aspect_ratio": "100:1"}, "aspect_ratio"),
    ({"aspect_ratio": 1.78}, "aspect_ratio"),
    ({"size": "64x64", "width": 96}, "size"),
    ({"target_shape": [480]}, "target_shape"),
    ({"target_shape": ["480", "832"]}, "target_shape"),
    ({"target_shape": [True, 480]}, "target_shape"),
    ({"target_shape": [10**30, 480]}, "target_shape"),
    ({"target_shape": "480"}, "target_shape"),
    ({"num_fragments": 0}, "num_fragments"),
    ({"num_fragments": 101}, "num_fragments"),
    ({"num_fragments": 2, "num_frames": 1}, "num_fragments"),
    ({"guidance_scale": -1}, "guidance_scale"),
    ({"guidance_scale": 1e9}, "guidance_scale"),
    ({"guidance_scale": "strong"}, "guidance_scale"),
    ({"guidance_scale_2": 3.0}, "guidance_scale_2"),
    ({"flow_shift": 0}, "flow_shift"),
    ({"model": "sora"}, "model"),
    ({"model": "../demo"}, "model"),
    ({"model": 3}, "model"),
    ({"lora_name": "anime"}, "lora_name"),
    ({"lora_name": "../../anime"}, "lora_name"),
    ({"lora_strength": "much"}, "lora_strength"),
    ({"priority": 11}, "priority"),
    ({"priority": -11}, "priority"),
    ({"priority": "high"}, "priority"),
    ({"callback_url": "http://example.com/"}, "callback_url"),
    ({"last_frame_path": "/etc/passwd"}, "last_frame_path"),
    ({"task_id": "../up"}, "task_id"),
    ({"task_id": "/etc/passwd"}, "task_id"),
    ({"task_id": ".."}, "task_id"),
    ({"task_id": "queue"}, "task_id"),
    ({"task_id": "a b"}, "task_id"),
    ({"task_id": "x" * 129}, "task_id"),
    ({"task_id": "käse"}, "task_id"),
    ({"task_id": "x\n"}, "task_id"),
    ({"task_id": 12}, "task_id"),
    ({"save_result_path": "x" * 1025}, "save_result_path"),
    ({"save_result_path": "a\0b"}, "save_result_path"),
    ({"save_result_path": "folder/"}, "save_result_path"),
    ({"save_result_path": 5}, "save_result_path"),
    ({"image_path": 5}, "image_path"),
    ({"image_path": "ftp://example.com/cat.png"}, "image_path"),
    ({"image_path": "http://127.0.0.1/cat.png"}, "image_path"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG_FIELDS, ids=lambda value: repr(value)[:60])
async def test_a_wrong_field_is_named_in_a_422(service: HttpService, fields, field):
    content = json.dumps({"prompt": "a cat", **fields} if fields else {})
    body = assert_refused(await service.client.post("/v1/tasks/video", content=content), 422)
    assert body["field"] == field and body["detail"].startswith(field)
    assert sum((await service.store.counts()).values()) == 0


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("infer_steps", "abc"),
        ("infer_steps", "4.5"),
        ("infer_steps", "true"),
        ("seed", "1e400"),
        ("video_duration", "nan"),
        ("video_duration", "inf"),
        ("guidance_scale", "-inf"),
        ("target_shape", "[480"),
        ("target_shape", "[" * 100_000),
        ("priority", "99"),
        ("task_id", "../up"),
        ("prompt", "x" * 5000),
    ],
)
async def test_a_wrong_form_field_is_named_in_a_422(service: HttpService, field, text):
    response = await service.client.post("/v1/tasks/video/form", data={"prompt": "a cat", field: text})
    assert assert_refused(response, 422)["field"] == field


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"a cat"',
        b"42",
        b"{",
        b'{"prompt": "a cat",}',
        b"{'prompt': 'a cat'}",
        b"prompt=a+cat",
        b'{"prompt": "a cat", "video_duration": NaN}',
        b'{"prompt": "a cat", "video_duration": Infinity}',
        b'{"prompt": "a cat", "unknown": NaN}',
        b'{"prompt": "a cat", "guidance_scale": -Infinity}',
        b'{"prompt": "\xff\xfe"}',
        b"\x00\x01\x02",
        b'{"prompt": "a cat", "seed": ' + b"9" * 10_000 + b"}",
        b'{"a":' * 100_000,
        b"[" * 1_000_000,
    ],
    ids=lambda content: repr(content[:40]),
)
async def test_a_body_that_is_no_json_object_is_a_422(service: HttpService, content):
    for path in ("/v1/tasks/video", "/v1/local/video/generate", "/v1/local/video/generate/task_status"):
        assert_refused(await service.client.post(path, content=content), 422)


async def test_an_overflowing_number_is_a_422(service: HttpService):
    content = b'{"prompt": "a cat", "video_duration": 1e999}'
    assert assert_refused(await service.client.post("/v1/tasks/video", content=content), 422)


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=b", b"no boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n\r\n"),
        (
            "multipart/form-data; boundary=b; charset=nonsense",
            b'--b\r\nContent-Disposition: form-data; name="a"',
        ),
        (
            "multipart/form-data; boundary=b; charset=nonsense",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
        ),
        ("application/x-www-form-urlencoded", b"\xff=%ff&prompt=%00"),
        ("text/plain", b"prompt=a cat"),
        ("", b"prompt=a cat"),
    ],
)
async def test_a_malformed_form_is_a_422(service: HttpService, content_type, content):
    response = await service.client.post(
        "/v1/tasks/video/form", content=content, headers={"Content-Type": content_type}
    )
    assert_refused(response, 422)


async def test_a_form_of_too_many_parts_is_a_422(service: HttpService):
    fields = {f"field{number}": "x" for number in range(500)}
    files = [("prompt", (None, "x"))] + [(name, (None, text)) for name, text in fields.items()]
    assert_refused(await service.client.post("/v1/tasks/video/form", files=files), 422)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (lambda: b"", 400),
        (lambda: b"not an image at all", 400),
        (lambda: PDF, 400),
        (truncated_jpeg, 400),
        (lambda: png()[:200], 400),
        (huge_png, 413),
        (lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 20_000_000, 413),
    ],
    ids=["empty", "text", "PDF", "truncated JPEG", "truncated PNG", "20,000 x 20,000", "too many bytes"],
)
async def test_a_bad_image_is_refused_however_it_comes(service: HttpService, made, status):
    data = made()
    upload = await service.client.post(
        "/v1/tasks/video/form", data={"prompt": "x"}, files={"image_file": ("cat.jpg", data)}
    )
    assert_refused(upload, status)
    if data:
        for text in (as_text(data), "data:image/png;base64," + as_text(data)):
            response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "image_path": text})
            assert_refused(response, status)
    assert list(service.artifacts.task_ids_with_files()) == []
    await service.submit()


@pytest.mark.parametrize(
    "text", ["!!!!", "data:image/png;base64,@@@", "data:image/png,abc", "data:", "cat", "é" * 500]
)
async def test_broken_base64_is_a_400(service: HttpService, text):
    response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "image_path": text})
    assert_refused(response, 400)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "~/cat.png", "/etc/../etc/hosts.png"])
@pytest.mark.parametrize("field", ["image_path", "save_result_path"])
async def test_a_path_out_of_the_folders_is_a_403(service: HttpService, field, path):
    if field == "save_result_path" and path.startswith("~"):
        path = "/srv/cat.png"
    response = await service.client.post("/v1/tasks/video", json={"prompt": "x", field: path})
    assert_refused(response, 403)


async def test_two_images_at_once_are_a_422(service: HttpService):
    response = await service.client.post(
        "/v1/tasks/video/form",
        data={"prompt": "x", "image_path": as_text(png())},
        files={"image_file": png()},
    )
    assert assert_refused(response, 422)["field"] == "image_path"


@pytest.mark.parametrize("name", ["image_file", "last_frame_file"])
async def test_text_where_a_file_belongs_is_a_422(service: HttpService, name):
    response = await service.client.post("/v1/tasks/video/form", data={"prompt": "x", name: "/etc/passwd"})
    assert assert_refused(response, 422)["field"] == name


@pytest.mark.parametrize("beside", [{}, {"image_file": png()}])
async def test_a_last_frame_that_no_model_takes_is_refused_and_not_left_out(service: HttpService, beside):
    response = await service.client.post(
        "/v1/tasks/video/form", data={"prompt": "x"}, files={"last_frame_file": png(), **beside}
    )
    assert assert_refused(response, 422)["field"] == "last_frame_path"


async def test_a_stated_length_over_the_limit_is_refused_before_the_body_is_read(service: HttpService):
    async def body() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""  # type: ignore[unreachable]  # makes this a generator

    for length in ("50000000", "9" * 40):
        response = await service.client.post(
            "/v1/tasks/video", content=body(), headers={"Content-Length": length}
        )
        assert assert_refused(response, 413)["code"] == "too_large"


@pytest.mark.parametrize("path", ["/v1/tasks/video", "/v1/tasks/video/form", "/v1/local/video/generate"])
async def test_a_body_over_the_limit_is_refused_while_it_is_read(service: HttpService, path):
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="image_file"; filename="x"\r\n\r\n'
        for _ in range(100):
            sent += 1_000_000
            yield b"x" * 1_000_000

    response = await service.client.post(
        path, content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert_refused(response, 413)
    assert sent < 50_000_000


@pytest.mark.parametrize("key", ["", "x" * 256, "käse", "a\tb"])
async def test_a_bad_idempotency_key_is_a_422(service: HttpService, key):
    response = await service.client.post(
        "/v1/tasks/video", json={"prompt": "x"}, headers={"Idempotency-Key": key.encode()}
    )
    assert assert_refused(response, 422)["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    "task_id",
    ["unknown", "x" * 128, "x" * 5000, "..%2f..", "%00", "%ff%fe", "%ed%a0%80", "a%20b", "'; --", "%25"],
)
async def test_an_unknown_task_is_a_404_everywhere(service: HttpService, task_id):
    for method, path in (("GET", "/status"), ("GET", "/result"), ("DELETE", "")):
        response = await service.client.request(method, f"/v1/tasks/{task_id}{path}")
        assert len(assert_refused(response, 404)["detail"]) < 200


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=501", 422),
        ("limit=x", 422),
        ("limit=", 422),
        ("status=done", 422),
        ("status=running,", 200),
        ("after=unknown", 404),
        ("after=%00", 404),
        ("after=", 200),
    ],
)
async def test_a_bad_list_query_is_refused(service: HttpService, query, status):
    response = await service.client.get(f"/v1/tasks?{query}")
    if status == 200:
        assert response.status_code == 200
    else:
        assert_refused(response, status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/tasks", 404),
        ("GET", "/v1/tasks/video", 405),
        ("PUT", "/v1/tasks/some", 405),
        ("POST", "/health", 405),
        ("GET", "//", 200),
        ("GET", "/v1//tasks", 404),
    ],
)
async def test_an_unknown_path_or_method_is_told(service: HttpService, method, path, status):
    response = await service.client.request(method, f"http://service{path}")
    if status == 200:
        assert response.status_code == 200
    else:
        assert_refused(response, status)


async def test_a_distilled_model_refuses_guidance_and_runs_without(folder):
    models = [{"name": "fast", "variant": "demo-distill", "weights": folder}]
    async with running(settings(folder, models=models)) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "guidance_scale": 5})
        assert assert_refused(response, 422)["field"] == "guidance_scale"
        task = await service.store.get(EVERYONE, (await service.submit(guidance_scale=1))["task_id"])
        assert (task.spec.guidance_scale, task.spec.steps) == (1, 4)
