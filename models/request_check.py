"""Validation of a request against a model's variant, before any work is done."""

from math import inf, isfinite

import numpy as np

from models.engine import GenerationRequest, Picture
from models.errors import InvalidRequest
from models.lora_uses import check_uses
from models.variants import Variant

MAX_STEPS = 1000


def check_request(variant: Variant, request: GenerationRequest) -> None:
    """Raise ``InvalidRequest`` for a request this engine cannot run; ``models.fit`` applies limits."""
    for name, size in (("width", request.width), ("height", request.height)):
        if size < 1 or size % variant.size_multiple:
            raise InvalidRequest(
                f"{name} must be a multiple of {variant.size_multiple}, not {size}.", field=name
            )
    if request.num_frames < 1 or request.num_frames % variant.temporal_stride != 1:
        raise InvalidRequest(f"num_frames must be 4k + 1, not {request.num_frames}.", field="num_frames")
    if not 1 <= request.steps <= MAX_STEPS:
        raise InvalidRequest(f"steps must be 1 … {MAX_STEPS}, not {request.steps}.", field="steps")
    if not 0 < request.flow_shift < inf:
        raise InvalidRequest(f"flow_shift must be above 0, not {request.flow_shift}.", field="flow_shift")
    _check_guidance(variant, request)
    if not -(2**63) <= request.seed < 2**64:
        raise InvalidRequest("seed must fit in 64 bits.", field="seed")
    _check_images(variant, request)
    _check_frames(request)
    _check_references(variant, request)
    _check_fragments(request)
    _check_control(variant, request)
    check_uses(request.loras, two_experts=variant.boundary is not None)


def _check_guidance(variant: Variant, request: GenerationRequest) -> None:
    if request.guidance_scale_2 is not None and variant.boundary is None:
        raise InvalidRequest(
            f"{variant.name} has one expert and takes no guidance_scale_2.", field="guidance_scale_2"
        )
    for name, scale in (
        ("guidance_scale", request.guidance_scale),
        ("guidance_scale_2", request.guidance_scale_2),
    ):
        if scale is not None and not isfinite(scale):
            raise InvalidRequest(f"{name} must be a finite number.", field=name)


def _check_images(variant: Variant, request: GenerationRequest) -> None:
    """Check that the given pictures make up a video kind of this model."""
    if request.tail is not None:
        _check_tail(variant, request)
        return
    if request.image is None:
        if "t2v" not in variant.tasks:
            raise InvalidRequest(f"{variant.name} needs an image.", field="image")
    elif not variant.tasks & {"i2v", "flf2v"}:
        raise InvalidRequest(f"{variant.name} takes no image.", field="image")
    if request.last_image is None:
        if request.image is not None and "i2v" not in variant.tasks:
            raise InvalidRequest(f"{variant.name} needs a last image.", field="last_image")
    elif "flf2v" not in variant.tasks:
        raise InvalidRequest(f"{variant.name} takes no last image.", field="last_image")
    elif request.image is None:
        raise InvalidRequest("A last image needs a first one beside it.", field="last_image")
    elif request.num_frames == 1:
        raise InvalidRequest(
            "A video from a first to a last image has at least 5 frames.", field="num_frames"
        )


def _check_tail(variant: Variant, request: GenerationRequest) -> None:
    """Check a request that goes on from the last frames of a video."""
    if not variant.tasks & {"t2v", "i2v"}:
        raise InvalidRequest(f"{variant.name} goes on from no video.", field="tail")
    for name in ("image", "last_image", "video"):
        given = getattr(request, name)
        if given is not None:
            raise InvalidRequest(f"A video that goes on from another takes no {name}.", field=name)
    frames = variant.overlap(request.num_frames)
    if request.num_frames <= frames:
        raise InvalidRequest("A video that goes on from another has at least 5 frames.", field="num_frames")
    shape = (frames, request.height, request.width, 3)
    if request.tail is None or request.tail.shape != shape or request.tail.dtype != np.uint8:
        raise InvalidRequest(
            f"tail must be 8-bit RGB of {frames} frames of {request.width}x{request.height}.", field="tail"
        )


def _check_frames(request: GenerationRequest) -> None:
    """Check that each picture has the size and format of a frame of the video."""
    for name, picture in (("image", request.image), ("last_image", request.last_image)):
        if picture is not None and not _is_frame(picture, request):
            raise InvalidRequest(
                f"{name} must be 8-bit RGB and {request.width}x{request.height}, the size of the video.",
                field=name,
            )


def _check_references(variant: Variant, request: GenerationRequest) -> None:
    if len(request.references) > variant.max_references:
        raise InvalidRequest(
            f"{variant.name} takes at most {variant.max_references} reference images, "
            f"not {len(request.references)}.",
            field="references",
        )
    for picture in request.references:
        if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape or picture.dtype != np.uint8:
            raise InvalidRequest("A reference image must be 8-bit RGB.", field="references")


def _check_fragments(request: GenerationRequest) -> None:
    if request.num_fragments < 1:
        raise InvalidRequest(
            f"num_fragments must be at least 1, not {request.num_fragments}.", field="num_fragments"
        )
    if len(request.fragment_prompts) not in (0, request.num_fragments):
        raise InvalidRequest(
            f"There are {len(request.fragment_prompts)} prompts for {request.num_fragments} fragments.",
            field="fragment_prompts",
        )
    if request.num_fragments == 1:
        return
    if request.num_frames == 1:
        raise InvalidRequest("A fragment has at least 5 frames.", field="num_frames")
    if request.last_image is not None or request.video is not None:
        raise InvalidRequest(
            "A last image or a video to change belongs to one fragment.", field="num_fragments"
        )


def _check_control(variant: Variant, request: GenerationRequest) -> None:
    """Check the video to change, its mask and the control scale."""
    if not 0 <= request.control_scale < inf:
        raise InvalidRequest(
            f"control_scale must be a number, at least 0, not {request.control_scale}.", field="control_scale"
        )
    if not variant.control_blocks:
        for name, given in (
            ("video", request.video is not None),
            ("mask", request.mask is not None),
            ("control_scale", request.control_scale != 1.0),
        ):
            if given:
                raise InvalidRequest(f"{variant.name} takes no {name}.", field=name)
    if request.video is None:
        if request.mask is not None:
            raise InvalidRequest("A mask needs a video that it is of.", field="mask")
        return
    if request.image is not None:
        raise InvalidRequest("Give a video to change or an image to begin with, not both.", field="video")
    shape = request.num_frames, request.height, request.width
    if request.video.shape != (*shape, 3) or request.video.dtype != np.uint8:
        raise InvalidRequest(f"video must be 8-bit RGB of {_size(request)}, as is asked for.", field="video")
    if request.mask is not None and (request.mask.shape != shape or request.mask.dtype != np.uint8):
        raise InvalidRequest(
            f"mask must be 8-bit of one channel and of {_size(request)}, as the video.", field="mask"
        )


def _size(request: GenerationRequest) -> str:
    return f"{request.num_frames} frames of {request.width}x{request.height}"


def _is_frame(picture: Picture, request: GenerationRequest) -> bool:
    return picture.shape == (request.height, request.width, 3) and picture.dtype == np.uint8
