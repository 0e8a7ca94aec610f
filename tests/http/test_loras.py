"""LoRAs by name: listed, chosen, and refused where there is none of that name."""

from pathlib import Path
from typing import Any

import pytest

from models.video_spec import LoraUse
from tests.http.http_service import running, settings


@pytest.fixture
def models(folder: Path) -> list[dict[str, Any]]:
    """Return the settings of two models; the second has two LoRAs."""
    loras = folder / "loras"
    loras.mkdir()
    for name in ("anime", "clay_high_noise", "clay_low_noise"):
        (loras / f"{name}.safetensors").touch()
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


async def test_the_models_loras_are_listed(folder: Path, models):
    async with running(settings(folder, models=models)) as service:
        listed = (await service.client.get("/v1/service/metadata")).json()["models"]
        assert [model["loras"] for model in listed] == [[], ["anime", "clay"]]
        (folder / "loras" / "ink.safetensors").touch()
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
