"""A page of docs/models for each variant: what it makes, what it needs and how it is served.

The gigabytes are the engine's own estimates (``models/memory/estimate.py``): calculations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.engine import GenerationRequest
from models.memory.estimate import GB, MARGIN, KernelScratch, parameters, request_memory, resident_weights
from models.tuning import Offload
from models.variants import VARIANTS, Variant

FOLDER = Path(__file__).parents[1] / "docs/models"

CARDS_GB = {24: "RTX 4090, L4", 32: "RTX 5090", 48: "L40S", 80: "A100, H100", 96: "RTX PRO 6000", 141: "H200"}
"""Memory of usual GPUs, in GB."""
_CONTEXT_GB = 1.0
"""What CUDA takes for itself, roughly."""
_ITEMSIZE = 2
_PROMPT = "a red cat runs along the beach at sunset, waves behind it"
_HEADER = "<!-- Written by `python -m deploy.generate`. -->\n"


def page(variant: Variant, repository: str) -> str:
    """Return the page of a base variant, whose weights are in a repository of the Hugging Face hub."""
    parts = (
        f"{_HEADER}\n# {variant.name}\n",
        f"Makes a video from {inputs(variant)}.\nWeights: "
        f"[{repository}](https://huggingface.co/{repository}), served as bfloat16.\n",
        _defaults(variant),
        _memory(variant),
        _cards(variant),
        _start(variant),
        _request(variant),
    )
    return "\n".join(parts)


def index(repositories: dict[str, str]) -> str:
    """Return the page that leads to the others."""
    rows = [
        f"| [{name}]({name}.md) | {inputs(VARIANTS[name])} | {VARIANTS[name].width}x{VARIANTS[name].height} "
        f"| {_gb(_resident(VARIANTS[name]))} |"
        for name in repositories
    ]
    return "\n".join(
        [
            f"{_HEADER}\n# Models\n",
            "Every variant has a 4-step form, `<variant>-distill`. The demo model that is in the project",
            "has [a page of its own](../../models/demo/README.md).\n",
            "| Variant | Makes a video from | Its own size | Weights, GB |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def pages(repositories: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each page."""
    for name, repository in repositories.items():
        yield FOLDER / f"{name}.md", page(VARIANTS[name], repository)
    yield FOLDER / "README.md", index(repositories)


def inputs(variant: Variant) -> str:
    """Return what a variant makes a video from, in words."""
    if variant.control_blocks:
        return "text, with or without a first and a last frame, references, or a video and its mask"
    if variant.tasks == {"t2v"}:
        return "text"
    if variant.tasks == {"flf2v"}:
        return "text, a first and a last frame"
    first = "text and a first frame" if "t2v" not in variant.tasks else "text, with or without a first frame"
    return f"{first}, with or without a last one" if "flf2v" in variant.tasks else first


def _defaults(variant: Variant) -> str:
    quick = VARIANTS[f"{variant.name}-distill"]
    guidance = f"{variant.guidance_scale:g}"
    if variant.guidance_scale_2 is not None:
        guidance += f", then {variant.guidance_scale_2:g} below noise level {variant.boundary:g}"
    rows = [
        (
            "Size",
            f"{variant.width}x{variant.height}; sides are multiples of {variant.size_multiple}",
            "the same",
        ),
        ("Largest area", f"{variant.max_area:,} pixels", "the same"),
        (
            "Frames",
            f"{variant.num_frames} at {variant.fps} a second: {variant.num_frames / variant.fps:.1f} s",
            "the same",
        ),
        ("Steps", str(variant.steps), str(quick.steps)),
        ("Guidance scale", guidance, "none: one forward pass a step"),
        ("Flow shift", f"{variant.flow_shift:g}", f"{quick.flow_shift:g}"),
    ]
    if variant.max_references:
        rows.append(("Reference pictures", f"up to {variant.max_references}", "the same"))
    return _table((f"`{variant.name}`", f"`{quick.name}`"), rows, "Defaults")


def _memory(variant: Variant) -> str:
    rows = [(words, _gb(size)) for words, size in _settings(variant)]
    rows.append(("a video of its own size, with guidance, beside the weights", _gb(_video(variant))))
    return _table(("GB",), rows, "Memory of one GPU") + (
        "\nWith `devices_per_replica` above 1 each GPU holds all weights, and a part of the video.\n"
    )


def _cards(variant: Variant) -> str:
    rows = [(f"{size} GB ({names})", _fitting(variant, size)) for size, names in CARDS_GB.items()]
    return _table(("Setting",), rows, "Which GPU")


def _start(variant: Variant) -> str:
    return "\n".join(
        [
            "## Serve it\n",
            "```bash",
            f"scripts/serve deploy/configs/{variant.name}-1gpu.yaml  # or -2gpu, -4gpu, -8gpu for a video",
            "```\n",
            "Settings of speed go to the model's `options`: [operations/models.md](../operations/models.md).",
            "The 4-step form reads its LoRA of `weights/distill`, which its configuration names.\n",
        ]
    )


def _request(variant: Variant) -> str:
    fields = [f'prompt="{_PROMPT}"', "seed=42", f"model={variant.name}"]
    if "t2v" not in variant.tasks:
        fields.append("image_file=@first.png")
    if variant.tasks == {"flf2v"}:
        fields.append("last_frame_file=@last.png")
    return "\n".join(
        [
            "## Ask for a video\n",
            "```bash",
            " \\\n  ".join(
                ["curl http://127.0.0.1:8000/v1/tasks/video/form", *(f"-F {field}" for field in fields)]
            ),
            "```",
            "",
        ]
    )


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str) -> str:
    lines = [f"## {title}\n", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _settings(variant: Variant) -> list[tuple[str, float]]:
    """Return the settings that take less and less memory, each with the bytes of weights on the GPU."""
    settings = [("all weights", _resident(variant))]
    if variant.boundary:
        settings.append(("`offload: experts`: two take turns", _resident(variant, offload="experts")))
    return [
        *settings,
        ("`fp8: true`", _resident(variant, fp8=True)),
        ("`offload: model`", _resident(variant, offload="model")),
        ("`offload: group`", _resident(variant, offload="group")),
    ]


def _fitting(variant: Variant, card_gb: int) -> str:
    free = (card_gb - _CONTEXT_GB) * GB
    fitting = [words for words, size in _settings(variant) if size + MARGIN * _video(variant) <= free]
    return fitting[0] if fitting else "not a video of its own size: fewer frames, or a smaller one"


def _resident(variant: Variant, *, fp8: bool = False, offload: Offload = "none") -> float:
    return resident_weights(parameters(variant), _ITEMSIZE, variant, fp8=fp8, offload=offload)


def _video(variant: Variant) -> float:
    request = GenerationRequest.of(variant, _PROMPT, seed=42)
    return request_memory(variant, request, _ITEMSIZE, scratch=KernelScratch(fused=True, volumes=True)).peak


def _gb(size: float) -> str:
    return f"{size / GB:.1f}"
