"""First and last frames, and videos of several fragments."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serve_app.media import image_decoding
from serve_app.media.source_image import SourceImage
from serve_app.tasks.caller import EVERYONE
from tests.http.http_service import HttpService, as_text, png, running, settings

FLF2V = {"models": [{"name": "flf", "variant": "wan2.2-i2v-a14b", "weights": "."}]}
LARGE: dict[str, Any] = {"width": 128, "height": 128}


async def test_fragments_are_counted_into_frames_steps_and_work(service: HttpService):
    one = await service.submit(num_frames=9, infer_steps=4)
    three = await service.submit(num_frames=9, infer_steps=4, num_fragments=3)
    status = await service.status(three["task_id"])
    assert (status["num_frames"], status["total_steps"]) == (25, 12)
    first, second = await service.claim(), await service.claim()
    assert (first.id, second.id) == (one["task_id"], three["task_id"])
    assert second.work == 3 * first.work
    assert (second.spec.num_fragments, second.spec.num_frames) == (3, 9)


@pytest.mark.parametrize(
    ("picture", "fields", "size"),
    [
        ((480, 832), {}, (96, 160)),
        ((832, 480), {}, (160, 96)),
        ((100, 100), {}, (96, 96)),
        ((960, 640), {}, (160, 96)),
        ((1, 3000), {}, (32, 480)),
        ((3000, 1), {}, (480, 32)),
        ((480, 832), {"width": 96, "height": 64}, (96, 64)),
        ((480, 832), {"size": [64, 96]}, (96, 64)),
        ((480, 832), {"target_shape": [64, 96]}, (96, 64)),
        ((480, 832), {"aspect_ratio": "3:2"}, (160, 96)),
        ((480, 960), {"width": 32}, (32, 64)),
        ((480, 960), {"height": 64}, (32, 64)),
    ],
)
@pytest.mark.parametrize("is_form", [False, True])
async def test_the_video_takes_the_pictures_shape_unless_a_size_is_sent(
    service: HttpService,
    picture: tuple[int, int],
    fields: dict[str, Any],
    size: tuple[int, int],
    is_form: bool,
):
    if is_form:
        data = {"prompt": "x", **{name: str(value) for name, value in fields.items()}}
        files = {"image_file": png(*picture)}
        response = await service.client.post("/v1/tasks/video/form", data=data, files=files)
        assert response.status_code == 200, response.text
        body = response.json()
    else:
        body = await service.submit(image_path=as_text(png(*picture)), **fields)
    task = await service.store.get(EVERYONE, body["task_id"])
    assert (task.spec.width, task.spec.height) == size
    # As much work as a video of that size from no picture.
    plain = await service.store.get(
        EVERYONE, (await service.submit(width=size[0], height=size[1]))["task_id"]
    )
    assert (task.work, task.tokens) == (plain.work, plain.tokens)
    is_cut = picture[0] * size[1] != picture[1] * size[0]
    assert ("centre-cropped" in body["message"]) == is_cut
    assert "rounded" not in body["message"]


async def test_fragments_and_a_last_frame_take_the_first_ones_shape(folder: Path):
    async with running(settings(folder, **FLF2V)) as service:
        tall, wide = as_text(png(300, 500)), as_text(png(500, 300))
        for fields in ({"last_frame_path": wide}, {"num_fragments": 2, "num_frames": 5}):
            body = await service.submit(image_path=tall, **fields)
            status = await service.status(body["task_id"])
            assert (status["width"], status["height"]) == (736, 1232)
        assert "image 500x300" not in body["message"]


async def test_a_phones_heic_picture_is_taken_in_its_shape(service: HttpService):
    heic = Path("tests/unit/pictures/tiles_turned.heic").read_bytes()
    data, files = {"prompt": "a red ball", "width": "64"}, {"image_file": ("IMG_1.HEIC", heic, "image/heic")}
    form = await service.client.post("/v1/tasks/video/form", data=data, files=files)
    assert form.status_code == 200, form.text
    named = await service.submit(image_path=as_text(heic), width=64)
    for body in (form.json(), named):
        assert "The image 96x160 was centre-cropped to 64x96." in body["message"]
        spec = (await service.store.get(EVERYONE, body["task_id"])).spec
        assert (spec.width, spec.height) == (64, 96)  # of 96x160, with Wan's rounding


async def test_a_picture_is_turned_before_its_shape_is_taken(service: HttpService):
    buffer = io.BytesIO()
    upright = Image.Exif()
    upright[0x0112] = 6
    Image.new("RGB", (960, 640)).save(buffer, "JPEG", exif=upright)
    body = await service.submit(image_path=as_text(buffer.getvalue()))
    status = await service.status(body["task_id"])
    assert (status["width"], status["height"]) == (96, 160)


async def test_a_picture_is_decoded_once(service: HttpService, monkeypatch: pytest.MonkeyPatch):
    decoded: list[int] = []
    decode = image_decoding.decode

    def counted(data: bytes, *, max_pixels: int) -> SourceImage:
        decoded.append(len(data))
        return decode(data, max_pixels=max_pixels)

    monkeypatch.setattr(image_decoding, "decode", counted)
    await service.submit(image_path=as_text(png(64, 96)))
    assert len(decoded) == 1


async def test_a_first_and_a_last_frame_go_to_a_model_that_takes_both(folder: Path):
    async with running(settings(folder, **FLF2V)) as service:
        response = await service.client.post(
            "/v1/tasks/video/form",
            data={"prompt": "x", **LARGE},
            files={"image_file": png(100, 100), "last_frame_file": png(60, 60)},
        )
        assert response.status_code == 200, response.text
        spec = (await service.claim("flf")).spec
        assert spec.image_key is not None and spec.last_image_key is not None
        stored = [service.artifacts.read_input(key) for key in (spec.image_key, spec.last_image_key)]
        assert [SourceImage.from_png(data).width for data in stored] == [100, 60]


async def test_a_last_frame_can_come_as_text_and_is_left_out_of_the_record(folder: Path):
    async with running(settings(folder, **FLF2V)) as service:
        frames: dict[str, Any] = {"image_path": as_text(png()), "last_frame_path": as_text(png(64, 64))}
        task = await service.store.get(EVERYONE, (await service.submit(**frames, **LARGE))["task_id"])
        assert task.spec.last_image_key is not None
        assert "left out" in task.request["last_frame_path"]


@pytest.mark.parametrize(
    "fields, field, status",
    [
        ({"last_frame_path": as_text(png())}, "last_frame_path", 422),
        ({"image_path": as_text(png()), "last_frame_path": as_text(b"no picture")}, None, 400),
        (
            {"image_path": as_text(png()), "last_frame_path": as_text(png()), "num_fragments": 2},
            "num_fragments",
            422,
        ),
    ],
)
async def test_impossible_frames_are_refused_and_leave_nothing_behind(folder: Path, fields, field, status):
    async with running(settings(folder, **FLF2V)) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", **LARGE, **fields})
        assert (response.status_code, response.json().get("field")) == (status, field), response.text
        assert list(service.settings.inputs.rglob("*.png")) == []


@pytest.mark.parametrize("field", ["image_file", "last_frame_file"])
async def test_an_idempotent_repeat_with_another_frame_is_refused(folder: Path, field: str):
    async with running(settings(folder, **FLF2V)) as service:
        statuses = []
        for size in (64, 64, 80):
            response = await service.client.post(
                "/v1/tasks/video/form",
                data={"prompt": "x", "seed": "1", **LARGE},
                files={"image_file": png(), "last_frame_file": png(), field: png(size, size)},
                headers={"Idempotency-Key": "k"},
            )
            statuses.append(response.status_code)
        assert statuses == [200, 200, 422]
