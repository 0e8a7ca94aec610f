"""The options that say what a video is made from and how."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from wan_serve.client import Client
from wan_serve.errors import Refused
from wan_serve.order import NAMES


def _picture(about: str) -> Any:
    return typer.Option(metavar="FILE|URL", help=about)


Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="What the video shows; may be left out beside an image.")
]
Image = Annotated[str, _picture("The first frame.")]
Last = Annotated[str, _picture("The last frame.")]
References = Annotated[list[str] | None, _picture("What is to appear in it; may be given again.")]
Video = Annotated[str, _picture("A video to change.")]
Mask = Annotated[str, _picture("A video, white where the other one is to change.")]
Negative = Annotated[str | None, typer.Option(help="What it should not show.")]
Model = Annotated[str, typer.Option(help="Its name; by default the first one that can do it.")]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="NAME[:STRENGTH[:LOW]]",
        help="May be given again; LOW: for the low-noise expert.",
    ),
]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="In pixels.")]
Tier = Annotated[str, typer.Option(help="Such as 480p, in place of a size: see wan-serve models.")]
Ratio = Annotated[str, typer.Option(help="Such as 16:9, in place of a size or for the tier.")]
Seconds = Annotated[float | None, typer.Option(help="Its length.")]
Frames = Annotated[int | None, typer.Option(help="Its length in frames, in place of seconds.")]
Steps = Annotated[int | None, typer.Option(help="Denoise steps.")]
Guidance = Annotated[float | None, typer.Option(help="How strongly the prompt steers.")]
Seed = Annotated[int | None, typer.Option(help="The same one makes the same video.")]
NewSeed = Annotated[bool, typer.Option("--new-seed", help="Draw another seed.")]
Priority = Annotated[int | None, typer.Option(help="Higher goes first.")]
More = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other field of docs/api.md; may be given again."),
]


TYPED_AS: Mapping[str, str] = {
    "prompt": "PROMPT",
    "last_image": "--last",
    "reference_images": "--reference",
    "negative_prompt": "--negative",
    "loras": "--lora",
    "width": "--tier",
    "height": "--tier",
    "aspect_ratio": "--ratio",
    "num_frames": "--frames",
    "guidance_scale": "--guidance",
}
"""Fields of the client whose option has another name; all others have their own."""


@contextmanager
def named_as_typed(fields: Mapping[str, Any]) -> Iterator[None]:
    """Have a refusal name the option that the user typed in place of the service's field.

    ``fields``: of the client, None where an option was not given.
    """
    try:
        yield
    except Refused as error:
        for name, value in fields.items():
            field = rf"^{NAMES.get(name, name)}\b"
            if value is not None and re.match(field, error.detail):
                detail = re.sub(field, TYPED_AS.get(name, f"--{name}"), error.detail)
                raise Refused(
                    detail,
                    status=error.status,
                    code=error.code,
                    field=error.field,
                    retry_after_s=error.retry_after_s,
                ) from None
        raise


def lora(text: str) -> Mapping[str, Any]:
    """Return ``NAME[:STRENGTH[:LOW]]`` as the API takes it. Raises ``typer.BadParameter``."""
    name, *strengths = text.split(":")
    try:
        found = dict(zip(("strength", "strength_low"), map(float, strengths), strict=False))
    except ValueError:
        found = {}
    if not name or len(found) != len(strengths):
        raise typer.BadParameter(
            f"a LoRA looks like NAME, NAME:0.8 or, for two experts, NAME:0.8:0.5, not {text}"
        )
    return {"name": name, **found}


def fields_of(more: list[str] | None) -> Mapping[str, Any]:
    """Return each ``NAME=VALUE``; a value that is no JSON is text. Raises ``typer.BadParameter``."""
    return dict(_field(text) for text in more or [])


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"a field looks like fps=24, not {text}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def size_of_tier(client: Client, model: str, tier: str, ratio: str) -> Mapping[str, Any]:
    """Return the size that a model offers for a tier, the first one without a ratio.

    Raises ``typer.BadParameter`` where it offers none.
    """
    served = [each for each in client.models() if model in ("", each.name)]
    sizes = served[0].document["sizes"] if served else []
    for each in sizes:
        if each["tier"] == tier and ratio in ("", each["ratio"]):
            return {"width": each["width"], "height": each["height"]}
    offered = ", ".join(dict.fromkeys(f"{each['tier']} {each['ratio']}" for each in sizes)) or "none"
    raise typer.BadParameter(f"the model has no size {f'{tier} {ratio}'.strip()}; it offers {offered}")
