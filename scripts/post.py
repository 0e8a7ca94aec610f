#!/usr/bin/env python3
"""Ask a running service for a video through its local API: python scripts/post.py [--url URL]."""

import uuid

from service_client import Service, parser, show


def generate_task_id() -> str:
    """A random id that no other task has."""
    return uuid.uuid4().hex


message = {
    "task_id": generate_task_id(),
    "task_id_must_unique": True,
    "prompt": "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.",  # noqa: E501
    "negative_prompt": "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走",  # noqa: E501
    "image_path": "",
    "save_video_path": "./output_lightx2v_wan_t2v_t02.mp4",
}

if __name__ == "__main__":
    service = Service(parser(__doc__).parse_args().url)
    show(service.post("/v1/local/video/generate", message))
