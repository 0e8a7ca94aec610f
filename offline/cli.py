"""``wan-generate``: one video from the command line, on one or several devices of this machine."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

from models.engine import Frames, GenerationRequest
from models.errors import EngineLost, ModelError
from models.parallel.plan import plan
from models.pixel_format import PixelFormat, video_format
from models.variants import VARIANTS, Variant
from models.weights_source import HubModel
from offline.comment import comment_of
from offline.notes import Notes
from offline.options import Unusable, parser, request_of, settings_of, tell_of_loras
from offline.progress import StepBar, show
from serve_app.errors import ServiceError
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_writer import VideoWriteError, VideoWriter


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one video from ``arguments`` (default: the command line's) and return the exit status.

    0: the video is made, and its path printed, with --json its settings too. 1: failed, with one sentence
    on standard error. 130: Ctrl-C.
    """
    options = parser().parse_args(arguments)
    try:
        settings = _make(options)
    except KeyboardInterrupt:
        return 130
    except (Unusable, ModelError, EngineLost, ServiceError, VideoWriteError) as error:
        show("", end="\n")
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"file": str(options.out), **json.loads(settings)}) if options.json else options.out)
    return 0


def _make(options: argparse.Namespace) -> str:
    """Make the video, and return its settings as its file holds them."""
    if not options.out.absolute().parent.is_dir():
        raise Unusable(f"There is no folder {options.out.absolute().parent}.")
    variant = _variant_of(options)
    tell = Notes()
    request = request_of(options, variant, tell)
    tell_of_loras(options, variant, tell)
    total = variant.video_frames(request.num_frames, request.num_fragments)
    settings = comment_of(options, variant, request)
    frames, pixel_format = _generated(options, variant, request, tell)
    with VideoWriter(
        options.out,
        width=request.width,
        height=request.height,
        fps=request.fps,
        encoding=VideoEncoding(pixel_format),
        comment=None if options.no_settings else settings,
    ) as writer:
        for some in frames:
            writer.write(some)
            show(f"frame {writer.frames_written} of {total}")
    show("", end="\n")
    return settings


def _variant_of(options: argparse.Namespace) -> Variant:
    """Return the variant named on the command line, or the one recognised in the model's folder."""
    if options.variant is not None:
        return VARIANTS[options.variant]
    from models.weights.folder import WeightsFolder
    from models.weights.hub import fetch
    from models.weights.recognition import recognised

    folder = options.model
    if isinstance(folder, HubModel):
        replaced = [part for part in ("transformer", "transformer_2") if getattr(options, part)]
        folder = fetch(folder, offline=options.offline, without=replaced).folder
    variant = recognised(WeightsFolder(folder))
    print(f"{options.model} is {variant.name}", file=sys.stderr)
    return variant


def _generated(
    options: argparse.Namespace, variant: Variant, request: GenerationRequest, tell: Notes
) -> tuple[Iterator[Frames], PixelFormat]:
    """Return the frames, made as they are asked for, and their format."""
    strongest = max(request.guidance_scale, request.guidance_scale_2 or 1.0)
    guidance = strongest > 1 and not variant.distilled
    chosen = plan(
        options.devices, variant.heads, guidance, cfg=options.cfg, ring=options.ring, ulysses=options.ulysses
    )
    settings = settings_of(options, variant, _device_kind(options))
    # torch takes seconds to import: errors above are reported before
    from models.generate import generate
    from models.group import generate_in_group
    from models.loading import load_engine
    from models.request_check import check_request

    check_request(variant, request)
    show(f"loading {options.model}")
    pixels = video_format(settings.device)
    if chosen.devices == 1:
        engine = load_engine(settings)
        frames = generate(
            engine,
            request,
            StepBar(),
            on_prepared=lambda run: tell(run.notes),
            on_phase=show,
            pixel_format=pixels,
        )
    else:
        frames = generate_in_group(
            settings,
            chosen,
            request,
            StepBar(),
            tell,
            timeout_s=options.timeout,
            on_phase=show,
            pixel_format=pixels,
        )
    return frames, pixels


def _device_kind(options: argparse.Namespace) -> str:
    import torch

    there = torch.cuda.device_count()
    kind: str = options.device if options.device != "auto" else "cuda" if there else "cpu"
    if kind == "cuda" and options.devices > there:
        raise Unusable(f"This machine has {there} CUDA devices, not {options.devices}.")
    return kind


if __name__ == "__main__":
    sys.exit(main())
