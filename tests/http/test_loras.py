"""LoRAs by name: listed, chosen, and refused where none has the name or it cannot be applied."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from models.variants import VARIANTS
from models.video_spec import LoraUse
from tests.http.http_service import png, running, settings
from tests.http.lora_file import save

DIM = VARIANTS["demo"].dim
WIDE = VARIANTS["wan2.2-t2v-a14b"].dim
Q = "diffusion_model.blocks.0.self_attn.q"
FITTING = {f"{Q}.diff_b": (DIM,)}


@pytest.fixture
def models(folder: Path) -> list[dict[str, Any]]:
    """Return the settings of two models; the second has two LoRAs."""
    loras = folder / "loras"
    for name in ("anime", "clay"):
        save(loras / f"{name}.safetensors", FITTING)
    plain = {"variant": "demo", "weights": "."}
    return [{**plain, "name": "demo"}, {**plain, "name": "styled", "lora_folder": str(loras)}]


async def test_a_lora_goes_to_the_model_that_has_it(folder: Path, models):
    async with running(settings(folder, models=models)) as service:
        assert (await service.submit())["task_id"] == (await service.claim("demo")).id
        await service.submit(lora_name="clay", lora_strength=0.5)
        spec = (await service.claim("styled")).spec
        assert spec.loras == (LoraUse("clay", 0.5),)


async def test_a_lora_can_be_named_by_its_file(folder: Path, models):
    async with running(settings(folder, models=models)) as service:
        await service.submit(lora_name="anime.safetensors")
        assert (await service.claim("styled")).spec.loras == (LoraUse("anime", 1.0),)


async def test_several_loras_each_have_their_strengths(folder: Path):
    for name in ("anime", "clay"):
        save(folder / "loras" / f"{name}.safetensors", {f"{Q}.diff_b": (WIDE,)})
    two = {"name": "two", "variant": "wan2.2-t2v-a14b", "weights": ".", "lora_folder": str(folder / "loras")}
    sent = [{"name": "clay.safetensors", "strength": 0.5, "strength_low": -1}, {"name": "anime"}]
    uses = (LoraUse("clay", 0.5, -1.0), LoraUse("anime"))
    async with running(settings(folder, models=[two])) as service:
        await service.submit(loras=sent)
        assert (await service.claim("two")).spec.loras == uses
        form = {"prompt": "x", "loras": json.dumps(sent)}
        answer = await service.client.post("/v1/tasks/video/form", data=form)
        assert answer.json()["message"] == "Task created successfully", answer.text
        assert (await service.claim("two")).spec.loras == uses


async def test_the_models_loras_are_listed(folder: Path, models):
    async with running(settings(folder, models=models)) as service:
        listed = (await service.client.get("/v1/service/metadata")).json()["models"]
        assert [model["loras"] for model in listed] == [[], ["anime", "clay"]]
        save(folder / "loras" / "ink.safetensors", FITTING)
        listed = (await service.client.get("/v1/service/metadata")).json()["models"]
        assert listed[1]["loras"] == ["anime", "clay", "ink"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lora_name": "comic"}, "demo has no LoRA of that name; it has none"),
        ({"lora_name": "comic", "model": "styled"}, "there are anime, clay"),
        ({"lora_name": "../loras/anime", "model": "styled"}, "there are anime, clay"),
        ({"lora_name": "anime", "model": "demo"}, "it has none"),
    ],
)
async def test_an_unknown_lora_is_refused_with_those_there_are(folder: Path, models, fields, sentence: str):
    async with running(settings(folder, models=models)) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", **fields})
        assert (response.status_code, response.json()["field"]) == (422, "lora_name")
        assert sentence in response.json()["detail"]


@pytest.mark.parametrize(
    ("loras", "field", "sentence"),
    [
        ([{"name": "clay"}, {"name": "comic"}], "loras[1].name", "there are anime, clay"),
        ([{"name": "clay"}, {"name": "clay.safetensors"}], "loras[1].name", "'clay' is there twice"),
        ([{"name": "clay"}, {"name": ""}], "loras[1].name", "must be text of 1 to 256 characters"),
        ([{"strength": 1}], "loras[0].name", "is required"),
        ([{"name": "clay"}, {"name": "anime", "strength": 11}], "loras[1].strength", "from -10 to 10"),
        ([{"name": "clay", "strength": None}], "loras[0].strength", "a number from -10 to 10"),
        ([{"name": "clay", "strength_low": "1"}], "loras[0].strength_low", "a number from -10 to 10"),
        ([{"name": "clay", "strength_low": 0.5}], "loras[0].strength_low", "this model has none"),
        ([{"name": "clay", "strenght": 0.5}], "loras[0]", "name, strength, strength_low, and nothing else"),
        ([{"name": f"clay{number}"} for number in range(9)], "loras", "at most 8 entries"),
        ([{"name": "clay"}, "anime"], "loras", 'as [{"name": "anime", "strength": 0.8}]'),
        ({"name": "clay"}, "loras", 'as [{"name": "anime", "strength": 0.8}]'),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_a_fault_in_several_loras_names_its_entry(folder: Path, models, loras, field, sentence: str):
    async with running(settings(folder, models=[models[1]])) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "loras": loras})
        assert (response.status_code, response.json().get("field")) == (422, field), response.text
        detail = response.json()["detail"]
        assert detail.startswith(f"{field}: ") and sentence in detail


async def test_one_lora_and_several_contradict_each_other(folder: Path, models):
    sent = {"prompt": "x", "lora_name": "clay", "loras": [{"name": "anime"}]}
    async with running(settings(folder, models=models)) as service:
        response = await service.client.post("/v1/tasks/video", json=sent)
        assert (response.status_code, response.json()["field"]) == (422, "loras")
        assert "lora_name was sent too" in response.json()["detail"]


async def test_what_is_left_out_of_a_lora_is_told_in_the_notes(folder: Path, models):
    parts = {"diffusion_model.img_emb.x": (1,), "diffusion_model.blocks.0.cross_attn.k_img.diff_b": (DIM,)}
    save(folder / "loras" / "i2v.safetensors", FITTING | parts)
    async with running(settings(folder, models=models)) as service:
        answer = await service.submit(lora_name="i2v")
        note = (
            "The LoRA 'i2v' is applied without 2 of its 3 tensors, which have no place in this model: "
            "diffusion_model.img_emb.x is the first."
        )
        assert note in answer["message"]
        assert (await service.status(answer["task_id"]))["notes"] == [note]
        image = base64.b64encode(png()).decode()
        pictured = await service.submit(lora_name="i2v", image_path=image)
        assert note in (await service.status(pictured["task_id"]))["notes"]
        listed = (await service.client.get("/v1/service/metadata")).json()["models"]
        assert [model["lora_notes"] for model in listed] == [{}, {"i2v": note}]


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({f"{Q}.diff_b": (DIM + 2,)}, "changes a blocks.0.attn1.to_q.bias of"),
        ({"diffusion_model.blocks.0.cross_attn.k_img.diff_b": (DIM,)}, "changes no block of this model"),
        (FITTING | {f"{Q}.dora_scale": (DIM, 1)}, "is a DoRA"),
        (FITTING | {f"{Q}.lokr_w1": (2, 2)}, "is a LoKr"),
        (FITTING | {f"{Q}.hada_w1_a": (2, 2)}, "is a LoHa"),
        ({f"{Q}.lora_down.weight": (2, DIM)}, "lacks the up matrix"),
        ({"some.thing": (2,)}, "is of no convention that is known for Wan"),
        (None, "is not a whole safetensors file"),
    ],
)
async def test_a_lora_that_cannot_be_applied_is_refused_at_submit(
    folder: Path, models, shapes, sentence: str
):
    file = folder / "loras" / "other.safetensors"
    if shapes is None:
        file.write_bytes(b"PK")
    else:
        save(file, shapes)
    async with running(settings(folder, models=models)) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "lora_name": "other"})
        assert (response.status_code, response.json()["field"]) == (422, "lora_name")
        assert sentence in response.json()["detail"]
        assert str(folder) not in response.text
        listed = (await service.client.get("/v1/service/metadata")).json()["models"]
        assert sentence in listed[1]["lora_notes"]["other"]
        save(file, FITTING)
        await service.submit(lora_name="other")


async def test_a_lora_that_does_not_go_into_the_cache_is_refused_at_submit(folder: Path, models):
    size = 2 * DIM  # of numbers that take two bytes each on a GPU
    for cache_bytes, status in ((size, 200), (size - 1, 422)):
        models[1]["lora_cache_bytes"] = cache_bytes
        async with running(settings(folder, models=models)) as service:
            response = await service.client.post(
                "/v1/tasks/video", json={"prompt": "x", "lora_name": "anime"}
            )
            assert response.status_code == status
    assert f"is too much: a request's LoRAs may have {size - 1} bytes together" in response.json()["detail"]
    models[1]["lora_cache_bytes"] = 2 * size - 1
    async with running(settings(folder, models=models)) as service:
        both = [{"name": "anime"}, {"name": "clay"}]
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", "loras": both})
        assert (response.status_code, response.json()["field"]) == (422, "loras[1].name")


async def test_the_halves_of_a_pair_are_one_lora_and_a_lone_half_is_told(folder: Path):
    loras = folder / "loras"
    for name in ("clay_HIGH_v1", "clay_LOW_v1", "ink_HIGH"):
        save(loras / f"{name}.safetensors", {f"{Q}.diff_b": (WIDE,)})
    model = {"name": "two", "variant": "wan2.2-t2v-a14b", "weights": ".", "lora_folder": str(loras)}
    async with running(settings(folder, models=[model])) as service:
        (listed,) = (await service.client.get("/v1/service/metadata")).json()["models"]
        assert listed["loras"] == ["clay_v1", "ink_HIGH"]
        note = (
            "The LoRA 'ink_HIGH' has a file for the high_noise expert alone, by its name; "
            "the low_noise expert runs without it."
        )
        assert listed["lora_notes"] == {"ink_HIGH": note}
        assert note in (await service.submit(lora_name="ink_HIGH"))["message"]
        pair = await service.submit(lora_name="clay_v1")
        assert (await service.status(pair["task_id"]))["notes"] == []


async def test_of_two_models_with_a_lora_the_one_that_can_apply_it_gets_the_task(folder: Path):
    loras = folder / "loras"
    save(loras / "wide.safetensors", {f"{Q}.diff_b": (WIDE,)})
    common = {"weights": ".", "lora_folder": str(loras)}
    models = [
        {"name": "small", "variant": "demo", **common},
        {"name": "large", "variant": "wan2.1-t2v-14b", **common},
    ]
    async with running(settings(folder, models=models)) as service:
        answer = await service.submit(lora_name="wide")
        assert (await service.claim("large")).id == answer["task_id"]
