"""A prompt for each fragment: from the request to the task, its notes and its copies."""

import json
from typing import Any

import pytest

from serve_app.tasks.caller import EVERYONE
from tests.http.http_service import HttpService, as_text, png
from tests.http.test_refusals import assert_refused

CALM, STORM = "a red ball", "a blue ball"


async def test_a_prompt_for_each_fragment_is_stored_and_told(service: HttpService):
    cases: tuple[tuple[dict[str, Any], str, tuple[str, ...]], ...] = (
        ({"prompt": "", "fragment_prompts": [f" {CALM} ", STORM]}, CALM, (CALM, STORM)),
        ({"num_fragments": 2, "fragment_prompts": ["", STORM]}, "a ball", ("a ball", STORM)),
        ({"image_path": as_text(png()), "prompt": "", "fragment_prompts": ["", ""]}, "", ("", "")),
        ({"fragment_prompts": []}, "a ball", ()),
    )
    for fields, prompt, prompts in cases:
        submitted = await service.submit(**{"prompt": "a ball", **fields})
        spec = (await service.store.get(EVERYONE, submitted["task_id"])).spec
        assert (spec.prompt, spec.fragment_prompts) == (prompt, prompts)
        assert spec.num_fragments == (len(prompts) or 1)
        assert (await service.status(submitted["task_id"]))["fragment_prompts"] == list(prompts)


async def test_a_form_takes_them_as_json(service: HttpService):
    for text, status in ((json.dumps([CALM, STORM]), 200), (f"{CALM}, {STORM}", 422), ("[", 422)):
        answer = await service.client.post("/v1/tasks/video/form", data={"fragment_prompts": text})
        assert answer.status_code == status, answer.text
    (task,) = await service.store.list(EVERYONE, limit=5)
    assert task.spec.fragment_prompts == (CALM, STORM)


async def test_prompts_that_cannot_be_are_refused(service: HttpService):
    for fields, field, said in (
        ({"fragment_prompts": "a"}, "fragment_prompts", "list of at most 100 texts"),
        ({"fragment_prompts": ["a", 1]}, "fragment_prompts", "list of at most 100 texts"),
        ({"fragment_prompts": ["a"] * 101}, "fragment_prompts", "at most 100"),
        ({"fragment_prompts": ["x" * 4097]}, "fragment_prompts", "at most 4096 characters"),
        ({"fragment_prompts": ["x" * 4000] * 5}, "fragment_prompts", "16384 in all"),
        ({"fragment_prompts": ["a", "a\0b"]}, "fragment_prompts", "NUL"),
        (
            {"fragment_prompts": ["a", "b"], "num_fragments": 3},
            "fragment_prompts",
            "2 prompts for 3 fragments",
        ),
        ({"fragment_prompts": ["a", "b"], "num_fragments": 1}, "fragment_prompts", "2 prompts for 1"),
        ({"prompt": "", "fragment_prompts": ["a", ""]}, "prompt", "is required"),
    ):
        body = {"prompt": "a ball", **fields}
        refused = assert_refused(await service.client.post("/v1/tasks/video", json=body), 422)
        assert refused["field"].startswith(field) and said in refused["detail"], fields


async def test_notes_name_the_fragment_and_none_is_enhanced(service: HttpService):
    submitted = await service.submit(fragment_prompts=[CALM, "a zzyzx"], enhance_prompt=True)
    task = await service.store.get(EVERYONE, submitted["task_id"])
    assert not task.enhance_prompt
    enhanced, unknown = task.notes
    assert enhanced == "The prompt was not enhanced: each fragment has its own."
    assert unknown.startswith("The prompt of fragment 2 has words") and "zzyzx" in unknown


@pytest.mark.parametrize(
    ("change", "prompts", "fragments"),
    [
        ({}, (CALM, STORM), 2),
        ({"prompt": "a cube"}, (), 2),
        ({"fragment_prompts": [STORM] * 3}, (STORM,) * 3, 3),
    ],
)
async def test_a_video_is_made_again_with_its_prompts_unless_others_come(
    service: HttpService, change: dict[str, Any], prompts: tuple[str, ...], fragments: int
):
    await service.submit(task_id="a", fragment_prompts=[CALM, STORM])
    answer = await service.client.post("/v1/tasks/video/again", json={"task_id": "a", **change})
    spec = (await service.store.get(EVERYONE, answer.json()["task_id"])).spec
    assert (spec.fragment_prompts, spec.num_fragments) == (prompts, fragments)
