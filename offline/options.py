"""The command line of offline generation, and the engine's settings and request made from it."""

import argparse
import re
from pathlib import Path

import yaml

from models.engine import EngineSettings, GenerationRequest
from models.errors import LoraFault
from models.fit import fit, size_of_shape
from models.lora.catalogue import LoraCatalogue
from models.variants import VARIANTS, Variant
from models.video_spec import LoraUse
from models.weights_source import weights_source
from offline.notes import Notes
from serve_app.media.image_decoding import decode
from serve_app.media.source_image import SourceImage

MAX_IMAGE_PIXELS = 100_000_000


class Unusable(Exception):
    """The reason why there is no video, as one sentence for the user."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: a model, a video and the devices that make it."""
    parser = argparse.ArgumentParser(prog="wan-generate", description="Make one video without the service.")
    _add_model(parser.add_argument_group("the model"))
    _add_video(parser.add_argument_group("the video"))
    _add_devices(parser.add_argument_group("the devices"))
    return parser


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        "--weights",
        type=weights_source,
        required=True,
        metavar="FOLDER|ORG/NAME[@REVISION]",
        help="a model in the diffusers layout, here or on the hub",
    )
    add(
        "--variant",
        choices=sorted(VARIANTS),
        metavar="NAME",
        help=f"read from the model if not given, but for distilled ones; {', '.join(sorted(VARIANTS))}",
    )
    add("--offline", action="store_true", help="ask no hub: its model must be in the cache")
    add("--transformer", type=Path, metavar="FILE", help="safetensors in place of the transformer's weights")
    add("--transformer-2", type=Path, metavar="FILE", help="the same for the low-noise expert")
    add("--lora-folder", type=Path, metavar="FOLDER", help="where --lora finds its files")
    add(
        "--lora",
        type=_lora,
        action="append",
        default=[],
        metavar="NAME[:STRENGTH[:LOW]]",
        help="a LoRA of that folder, with a strength for the low-noise expert; may be given again",
    )
    add(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a speed setting of models/tuning.py, such as fp8=true; may be given again",
    )


def _add_video(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--prompt", required=True)
    add("--out", type=Path, required=True, metavar="FILE.mp4")
    add("--image", type=Path, metavar="FILE", help="the first frame, of a model that takes one")
    add("--last-image", type=Path, metavar="FILE", help="the last frame, of a model that takes one")
    add(
        "--reference",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what is to appear in the video, for a VACE model; may be given again",
    )
    add("--negative-prompt", metavar="TEXT", help="what to steer away from")
    add("--size", type=_size, metavar="WIDTHxHEIGHT", help="in pixels; else of the first frame's shape")
    add("--frames", type=int, metavar="N", help="of each fragment")
    add("--fragments", type=int, default=1, metavar="N", help="that follow each other (default 1)")
    add("--steps", type=int, metavar="N")
    add("--guidance-scale", type=float, metavar="X")
    add("--guidance-scale-2", type=float, metavar="X", help="of the low-noise expert")
    add("--flow-shift", type=float, metavar="X")
    add("--seed", type=int, default=0, metavar="N")
    add("--no-settings", action="store_true", help="write no settings into the file")
    add("--json", action="store_true", help="print the file and its settings as JSON")


def _add_devices(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--devices", type=int, default=1, metavar="N", help="that make the video together (default 1)")
    for degree in ("cfg", "ring", "ulysses"):
        add(f"--{degree}", type=int, metavar="N", help="how the devices share the run; chosen by itself")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="their kind")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    add("--timeout", type=float, default=300.0, metavar="S", help="a device silent for so long has hung")


def settings_of(options: argparse.Namespace, variant: Variant, device: str) -> EngineSettings:
    """Return the engine's settings, for devices of the kind ``device``: ``cpu`` or ``cuda``."""
    return EngineSettings(
        variant,
        options.model,
        device,
        options.dtype,
        options=dict(options.option),
        offline=options.offline,
        transformer=options.transformer,
        transformer_2=options.transformer_2,
        lora_folder=options.lora_folder,
    )


def request_of(options: argparse.Namespace, variant: Variant, tell: Notes) -> GenerationRequest:
    """Return the complete request, with the variant's default for each option that is not given.

    Without a size, the first frame's shape decides it. Reads the pictures. Raises ``Unusable`` for a file
    that cannot be read, ``ImageUnreadable`` for one that is no image.
    """
    first, last = read_picture(options.image), read_picture(options.last_image)
    own = variant.width, variant.height
    shaped = own if first is None else size_of_shape(variant, (first.width, first.height))
    width, height = options.size or shaped
    fitted = fit(variant, width, height, variant.num_frames if options.frames is None else options.frames)
    tell(fitted.notes)
    fitted_size = fitted.width, fitted.height
    for file, picture in ((options.image, first), (options.last_image, last)):
        note = None if picture is None else picture.crop_note(*fitted_size)
        if note is not None:
            tell([f"{file}: {note}"])
    return GenerationRequest.of(
        variant,
        options.prompt,
        negative_prompt=options.negative_prompt,
        width=fitted.width,
        height=fitted.height,
        num_frames=fitted.num_frames,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        guidance_scale_2=options.guidance_scale_2,
        flow_shift=options.flow_shift,
        seed=options.seed,
        image=None if first is None else first.cover_crop(*fitted_size),
        last_image=None if last is None else last.cover_crop(*fitted_size),
        references=tuple(_read(file).pixels for file in options.reference),
        loras=tuple(options.lora),
        num_fragments=options.fragments,
    )


def tell_of_loras(options: argparse.Namespace, variant: Variant, tell: Notes) -> None:
    """Tell what is left out of the LoRAs. Raises ``Unusable`` for one that cannot be applied."""
    if not options.lora or options.lora_folder is None:
        return
    catalogue = LoraCatalogue(options.lora_folder, variant)
    for lora in options.lora:
        try:
            tell(catalogue.notes(lora.name))
        except LoraFault as fault:
            raise Unusable(f"The LoRA {lora.name!r} {fault}") from None


def read_picture(file: Path | None) -> SourceImage | None:
    """Return the picture in a file, None without a file. Raises ``Unusable`` or ``ImageUnreadable``."""
    return None if file is None else _read(file)


def _read(file: Path) -> SourceImage:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}.") from None
    return decode(data, max_pixels=MAX_IMAGE_PIXELS)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size looks like 832x480, not {text}")
    return int(match[1]), int(match[2])


def _lora(text: str) -> LoraUse:
    name, *strengths = text.split(":")
    try:
        return LoraUse(name, *map(float, strengths))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"a LoRA looks like NAME, NAME:0.8 or, for two experts, NAME:0.8:0.5, not {text}"
        ) from None


def _option(text: str) -> tuple[str, object]:
    """Parse an option's value as YAML."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"an option looks like fp8=true, not {text}")
    return name, yaml.safe_load(value)
