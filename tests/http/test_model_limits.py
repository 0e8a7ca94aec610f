"""Videos beyond what a model makes are refused by the field that the client sent."""

from pathlib import Path
from typing import Any

import pytest

from tests.http.http_service import running, settings


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"video_duration": 60}, "video_duration"),
        ({"num_frames": 999}, "num_frames"),
        ({"target_video_length": 999}, "target_video_length"),
        ({"width": 4096, "height": 4096}, "width"),
        ({"size": "4096x4096"}, "size"),
        ({"target_shape": [4096, 4096]}, "target_shape"),
    ],
)
async def test_a_video_beyond_the_models_limits_is_refused_by_the_field_that_was_sent(
    folder: Path, fields: dict[str, Any], field: str
):
    models = [{"name": "text", "variant": "wan2.1-t2v-1.3b", "weights": folder}]
    async with running(settings(folder, models=models)) as service:
        response = await service.client.post("/v1/tasks/video", json={"prompt": "x", **fields})
        assert response.status_code == 422, response.text
        assert response.json()["field"] == field
        assert response.json()["detail"].startswith(f"{field}: ")
