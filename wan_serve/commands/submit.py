"""``wan-serve submit`` and ``again``: a video is asked for."""

from typing import Any

from wan_serve.commands.connection import AsJson, KeyFile, TaskId, Url, connect
from wan_serve.commands.delivery import Open, Output, Wait, deliver
from wan_serve.commands.order_options import (
    Frames,
    Guidance,
    Image,
    Last,
    Loras,
    Mask,
    Model,
    More,
    Negative,
    NewSeed,
    Priority,
    Prompt,
    Ratio,
    References,
    Seconds,
    Seed,
    Size,
    Steps,
    Tier,
    Video,
    fields_of,
    lora,
    named_as_typed,
    size_of_tier,
)
from wan_serve.service import DEFAULT_URL


def submit(
    prompt: Prompt = "",
    image: Image = "",
    last: Last = "",
    reference: References = None,
    video: Video = "",
    mask: Mask = "",
    negative: Negative = None,
    model: Model = "",
    loras: Loras = None,
    size: Size = None,
    tier: Tier = "",
    ratio: Ratio = "",
    seconds: Seconds = None,
    frames: Frames = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    priority: Priority = None,
    more: More = None,
    wait: Wait = False,
    output: Output = None,
    is_opened: Open = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a video; print its task's id, or with --wait what becomes of it."""
    typed: dict[str, Any] = {
        "prompt": prompt,
        "image": image or None,
        "last_image": last or None,
        "reference_images": reference or None,
        "video": video or None,
        "mask": mask or None,
        "negative_prompt": negative,
        "model": model or None,
        "loras": [lora(each) for each in loras or []] or None,
        "size": size,
        "aspect_ratio": None if tier else ratio or None,
        "seconds": seconds,
        "num_frames": frames,
        "steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "priority": priority,
    }
    with connect(url, key_file) as client:
        typed |= size_of_tier(client, model, tier, ratio) if tier else {}
        with named_as_typed(typed):
            task = client.submit(**{**typed, **fields_of(more)})
    deliver(task, url, key_file, wait=wait, output=output, is_opened=is_opened, as_json=as_json)


def again(
    task_id: TaskId,
    prompt: Prompt = "",
    seed: Seed = None,
    new_seed: NewSeed = False,
    steps: Steps = None,
    size: Size = None,
    more: More = None,
    wait: Wait = False,
    output: Output = None,
    is_opened: Open = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask for an earlier video again, its seed included, but for what is given here."""
    typed: dict[str, Any] = {
        "prompt": prompt or None,
        "seed": -1 if new_seed and seed is None else seed,
        "steps": steps,
        "size": size,
    }
    with connect(url, key_file) as client, named_as_typed(typed):
        task = client.again(task_id, **{**typed, **fields_of(more)})
    deliver(task, url, key_file, wait=wait, output=output, is_opened=is_opened, as_json=as_json)
