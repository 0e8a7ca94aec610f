"""One video from the command line, on one or several devices of this machine, without the service.

scripts/generate replaces itself by this.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from generate_options import Unusable, parser, request_of, settings_of

from models.engine import Frames, GenerationRequest
from models.errors import GroupLost, ModelError
from models.parallel.plan import plan
from models.variants import VARIANTS, Variant
from models.weights_source import HubModel
from serve_app.errors import ServiceError
from serve_app.media.video_writer import VideoWriteError, VideoWriter


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


def make(options: argparse.Namespace) -> None:
    if not options.out.absolute().parent.is_dir():
        raise Unusable(f"There is no folder {options.out.absolute().parent}.")
    variant = variant_of(options)
    request = request_of(options, variant)
    total = variant.video_frames(request.num_frames, request.num_fragments)
    frames = generated(options, variant, request)
    with VideoWriter(options.out, width=request.width, height=request.height, fps=request.fps) as writer:
        for some in frames:
            writer.write(some)
            tell(f"frame {writer.frames_written} of {total}")
    tell("", end="\n")


def variant_of(options: argparse.Namespace) -> Variant:
    """The one that is named, or that the model's folder says it is."""
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


def generated(options: argparse.Namespace, variant: Variant, request: GenerationRequest) -> Iterator[Frames]:
    strongest = max(request.guidance_scale, request.guidance_scale_2 or 1.0)
    guidance = strongest > 1 and not variant.distilled
    chosen = plan(
        options.devices, variant.heads, guidance, cfg=options.cfg, ring=options.ring, ulysses=options.ulysses
    )
    settings = settings_of(options, variant, device_kind(options))
    # torch takes seconds to import: what is wrong above is told before
    from models.generate import generate
    from models.group import generate_in_group
    from models.loading import load_engine
    from models.request_check import check_request

    check_request(variant, request)
    tell(f"loading {options.model}")
    if chosen.devices == 1:
        return generate(load_engine(settings), request, Steps())
    return generate_in_group(settings, chosen, request, Steps(), timeout_s=options.timeout)


def device_kind(options: argparse.Namespace) -> str:
    import torch

    there = torch.cuda.device_count()
    kind: str = options.device if options.device != "auto" else "cuda" if there else "cpu"
    if kind == "cuda" and options.devices > there:
        raise Unusable(f"This machine has {there} CUDA devices, not {options.devices}.")
    return kind


class Steps:
    """A bar that grows with the steps, and the time that the rest will take."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def __call__(self, step: int, total_steps: int) -> None:
        now = time.monotonic()
        self._first = self._first or (step, now)
        first, began = self._first
        left = f", {(total_steps - step) * (now - began) / (step - first):.0f} s left" if step > first else ""
        done = 30 * step // total_steps
        tell(f"[{'#' * done:.<30}] step {step} of {total_steps}{left}")


def tell(progress: str, end: str = "") -> None:
    """On a terminal each line takes the place of the one before; in a log they would only pile up."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
