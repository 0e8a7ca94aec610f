"""One video from the command line, on one or several devices of this machine, without the service.

scripts/generate replaces itself by this.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.engine import EngineSettings, Frames, GenerationRequest
from models.errors import GroupLost, ModelError
from models.parallel import plan
from models.variants import VARIANTS, Variant, fit
from models.weights_source import weights_source
from serve_app.errors import ServiceError
from serve_app.media.image_decoding import decode
from serve_app.media.video_writer import VideoWriteError, VideoWriter

MAX_IMAGE_PIXELS = 100_000_000


class Unusable(Exception):
    """One sentence for the user, instead of a video."""


def main() -> int:
    options = parser().parse_args()
    try:
        make(options)
    except KeyboardInterrupt:
        return 130
    except (Unusable, ModelError, GroupLost, ServiceError, VideoWriteError) as error:
        tell("", end="\n")
        print(error, file=sys.stderr)
        return 1
    print(options.out)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/generate", description="Make one video without the service."
    )
    add = parser.add_argument
    add(
        "--weights",
        type=weights_source,
        required=True,
        metavar="FOLDER|ORG/NAME[@REVISION]",
        help="a model in the diffusers layout, here or on the hub",
    )
    add("--offline", action="store_true", help="ask no hub: its model must be in the cache")
    add("--transformer", type=Path, metavar="FILE", help="safetensors in place of the transformer's weights")
    add("--transformer-2", type=Path, metavar="FILE", help="the same for the low-noise expert")
    add(
        "--variant", required=True, choices=sorted(VARIANTS), metavar="NAME", help=", ".join(sorted(VARIANTS))
    )
    add("--prompt", required=True)
    add("--out", type=Path, required=True, metavar="FILE.mp4")
    add("--image", type=Path, metavar="FILE", help="the first frame, of a model that takes one")
    add("--negative-prompt", metavar="TEXT", help="what to steer away from")
    add("--size", type=size, metavar="WIDTHxHEIGHT", help="in pixels")
    add("--frames", type=int, metavar="N")
    add("--steps", type=int, metavar="N")
    add("--guidance-scale", type=float, metavar="X")
    add("--flow-shift", type=float, metavar="X")
    add("--seed", type=int, default=0, metavar="N")
    add("--devices", type=int, default=1, metavar="N", help="that make the video together (default 1)")
    for degree in ("cfg", "ring", "ulysses"):
        add(f"--{degree}", type=int, metavar="N", help="how the devices share the run; chosen by itself")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="their kind")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    add("--timeout", type=float, default=300.0, metavar="S", help="a device silent for so long has hung")
    return parser


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size looks like 832x480, not {text}")
    return int(match[1]), int(match[2])


def make(options: argparse.Namespace) -> None:
    if not options.out.absolute().parent.is_dir():
        raise Unusable(f"There is no folder {options.out.absolute().parent}.")
    variant = VARIANTS[options.variant]
    request = request_of(options, variant)
    frames = generated(options, variant, request)
    with VideoWriter(options.out, width=request.width, height=request.height, fps=request.fps) as writer:
        for some in frames:
            writer.write(some)
            tell(f"frame {writer.frames_written} of {request.num_frames}")
    tell("", end="\n")


def request_of(options: argparse.Namespace, variant: Variant) -> GenerationRequest:
    """Everything decided: what is not asked for is the variant's default."""
    width, height = options.size or (variant.width, variant.height)
    fitted = fit(variant, width, height, variant.num_frames if options.frames is None else options.frames)
    for note in fitted.notes:
        print(note, file=sys.stderr)

    def chosen(asked: float | None, default: float) -> float:
        return default if asked is None else asked

    return GenerationRequest(
        prompt=options.prompt,
        negative_prompt=variant.negative_prompt
        if options.negative_prompt is None
        else options.negative_prompt,
        width=fitted.width,
        height=fitted.height,
        num_frames=fitted.num_frames,
        fps=variant.fps,
        steps=variant.steps if options.steps is None else options.steps,
        guidance_scale=chosen(options.guidance_scale, variant.guidance_scale),
        guidance_scale_2=variant.guidance_scale_2,
        flow_shift=chosen(options.flow_shift, variant.flow_shift),
        seed=options.seed,
        image=None if options.image is None else picture(options.image, fitted.width, fitted.height),
    )


def picture(file: Path, width: int, height: int) -> NDArray[np.uint8]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}.") from None
    image = decode(data, max_pixels=MAX_IMAGE_PIXELS)
    note = image.crop_note(width, height)
    if note is not None:
        print(note, file=sys.stderr)
    return image.cover_crop(width, height)


def generated(options: argparse.Namespace, variant: Variant, request: GenerationRequest) -> Iterator[Frames]:
    strongest = max(request.guidance_scale, request.guidance_scale_2 or 1.0)
    guidance = strongest > 1 and not variant.distilled
    chosen = plan(
        options.devices, variant.heads, guidance, cfg=options.cfg, ring=options.ring, ulysses=options.ulysses
    )
    settings = EngineSettings(
        variant,
        options.weights,
        device_kind(options),
        options.dtype,
        offline=options.offline,
        transformer=options.transformer,
        transformer_2=options.transformer_2,
    )
    # torch takes seconds to import: what is wrong above is told before
    from models.generate import generate
    from models.group import generate_in_group
    from models.loading import load_engine
    from models.request_check import check_request

    check_request(variant, request)
    tell(f"loading {options.weights}")
    if chosen.devices == 1:
        return generate(load_engine(settings), request, tell_step)
    return generate_in_group(settings, chosen, request, tell_step, timeout_s=options.timeout)


def device_kind(options: argparse.Namespace) -> str:
    import torch

    there = torch.cuda.device_count()
    kind: str = options.device if options.device != "auto" else "cuda" if there else "cpu"
    if kind == "cuda" and options.devices > there:
        raise Unusable(f"This machine has {there} CUDA devices, not {options.devices}.")
    return kind


def tell_step(step: int, total_steps: int) -> None:
    done = 30 * step // total_steps
    tell(f"[{'#' * done:.<30}] step {step} of {total_steps}")


def tell(progress: str, end: str = "") -> None:
    """On a terminal each line takes the place of the one before; in a log they would only pile up."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
