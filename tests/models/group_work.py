"""The work of the ranks in ``test_parallel.py``, each in a process of its own."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from models.attention.approximation import Approximation
from models.attention.kernels import fp8_in_plain_torch
from models.attention.shard import Shard
from models.attention.sparse import SparseAttention
from models.conditioning.shared_text import SharedText
from models.engine import EngineSettings, GenerationRequest
from models.errors import GroupLost, ModelError
from models.generate import generate
from models.loading import load_engine
from models.parallel.mesh import Axis, Mesh, Transfer
from models.parallel.plan import ParallelPlan
from models.parallel.rank_launcher import LaunchedRank
from models.pipeline.wan_engine import WanEngine
from models.speed import tuned_model
from models.transformer.denoiser import Denoiser
from models.vae.causal_conv import ConvForm
from models.vae.conv_form import eight_bit_form
from models.vae.look_back import LookBackConv
from models.vae.streaming_vae import StreamingVae

from .checkpoints import small
from .conftest import REQUEST, Model, build_model, picture, remade
from .test_checkpoints import defaults
from .test_overflow import late_overflow
from .test_vae import VOLUMES, noise, wan21, wan22

HEADS = 4
ROWS = 15, 2
"""Tokens of a row of which attention in 8 bits is tried: neither divides, and of two some ranks have none."""

SHORT = replace(REQUEST, steps=3)
IMAGE = picture(REQUEST.width, REQUEST.height)
REQUESTS = {
    # 45 tokens in three rows of 15: neither divides
    "t2v": SHORT,
    "t2v without guidance": replace(SHORT, guidance_scale=1.0),
    "i2v": replace(SHORT, image=IMAGE),
    "t2v that divides": replace(SHORT, width=64, height=32, num_frames=5),
    "i2v that divides": replace(SHORT, width=64, height=32, num_frames=5, image=picture(64, 32)),
    # fewer tokens than ranks: some have nothing but padding
    "one token": replace(SHORT, width=16, height=16, num_frames=1),
    "i2v of one token a row": replace(SHORT, width=16, height=16, num_frames=5, image=picture(16, 16)),
}
LONG = replace(REQUESTS["i2v"], num_fragments=2)
# latent heights: one that every group divides, one that none does, one with fewer rows than many a group
HEIGHTS = [("look-back", 8), ("look-back", 9), ("look-back", 3), ("volumes", 9)]
DECODES = [(form, height, conv) for form in (wan21, wan22) for conv, height in HEIGHTS]
CONVS: dict[str, ConvForm] = {"look-back": LookBackConv, "volumes": VOLUMES}
# published kinds of model: the variant, the task and what differs from its defaults
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "two experts": ("wan2.2-t2v-a14b", "t2v", {}),
    "two experts in turn": ("wan2.2-t2v-a14b", "t2v", {}),
    "two experts, the second without guidance": ("wan2.2-t2v-a14b", "t2v", {"guidance_scale_2": 1.0}),
    "two experts, the first without guidance": ("wan2.2-t2v-a14b", "t2v", {"guidance_scale": 1.0}),
    "image channels and two experts": ("wan2.2-i2v-a14b", "i2v", {}),
    "image encoder": ("wan2.1-i2v-14b-480p", "i2v", {}),
    "image encoder of two pictures": ("wan2.1-flf2v-14b", "flf2v", {}),
    "side branch": ("wan2.1-vace-1.3b", "i2v", {}),
    "side branch with references": ("wan2.1-vace-1.3b", "t2v", {"references": (IMAGE, picture(32, 64))}),
}
SPARSE = {
    # 140 tokens in 9 blocks; on some ranks neither they nor rows of 35 divide
    "sparse t2v": replace(SHORT, width=112, height=80, num_frames=13),
    "sparse i2v": replace(SHORT, width=112, height=80, num_frames=13, image=picture(112, 80)),
}
UNBATCHED = "i2v, one prompt after the other"
SMALL_FIRST = "t2v, at half the size at first"
RUNS = (*REQUESTS, UNBATCHED, SMALL_FIRST)


@cache
def model(mesh: Mesh | None = None) -> Model:
    torch.manual_seed(11)
    built = build_model(expand_timesteps=True, heads=HEADS, mesh=mesh)
    built.engine.parts.vae.chunk_pixels = 1  # a chunk for each latent frame
    if mesh is None:
        return built
    encoder = built.text if mesh.rank == 0 else None
    return replace(built, engine=remade(built.engine, text=SharedText(mesh, encoder, torch.device("cpu"))))


def latents(engine: WanEngine, name: str) -> torch.Tensor:
    """Return the latents at the end of the run of that name."""
    if name == UNBATCHED:
        return run_to_end(remade(engine, batched_tokens=0), REQUESTS["i2v"])
    if name == SMALL_FIRST:
        return run_to_end(remade(engine, low_resolution_steps=0.7), REQUESTS["t2v"])
    return run_to_end(engine, REQUESTS[name])


def sparse_latents(engine: WanEngine, name: str) -> torch.Tensor:
    """Return the latents of the run of that name with sparse attention."""
    denoiser = engine.parts.denoiser
    approximation = Approximation(SparseAttention(0.5), in_order=True)
    sparse = Denoiser(denoiser.transformer, denoiser.mesh, approximation=approximation)
    return run_to_end(remade(engine, denoiser=sparse), SPARSE[name])


def some_heads(row: int) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values of three rows, ``[1, heads, 3, row, 32]``.

    The keys have much in common, and some more with their neighbours.
    """
    generator = torch.Generator().manual_seed(4)
    queries, keys, values = torch.randn(3, 1, HEADS, 3, row, 32, generator=generator)
    keys = keys + 10 * torch.randn(1, HEADS, 1, 1, 32, generator=generator)
    return queries, keys + torch.linspace(0, 2, row)[:, None], values


def attended_in_8_bits(mesh: Mesh, row: int) -> tuple[NDArray[np.float32], list[int]]:
    """Return the attention of all queries to all keys, quantised part by part, ``[1, 3, row, dim]``; and the
    bytes of each message in the ring.
    """
    shard = Shard(mesh, 3, row, fp8_in_plain_torch)
    tokens = (shard.cut(part).flatten(2, 3) for part in some_heads(row))
    queries, keys, values = (shard.by_heads(part)() for part in tokens)
    sent: list[int] = []
    shift = mesh.ring_shift

    def counted(tensors: list[torch.Tensor], axis: Axis) -> Transfer:
        sent.append(sum(tensor.nbytes for tensor in tensors))
        return shift(tensors, axis)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "ring_shift", counted)
        attended = shard.by_tokens(shard.attention(queries, keys, values))
    return shard.whole(attended.transpose(1, 2).flatten(2).unflatten(1, (3, -1))).numpy(), sent


def run_to_end(engine: WanEngine, request: GenerationRequest) -> torch.Tensor:
    run = engine.prepare(request)
    while run.step < run.total_steps:
        engine.denoise_step(run)
    return run.latents


def loaded(kind: str, folders: dict[str, Path], mesh: Mesh | None = None) -> WanEngine:
    name, _, _ = KINDS[kind]
    return engine_of(name, folders[name], "in turn" in kind, mesh)


@cache
def engine_of(name: str, folder: Path, in_turn: bool, mesh: Mesh | None) -> WanEngine:
    settings = EngineSettings(small(name), folder)
    if not in_turn:
        return load_engine(settings, mesh)
    # on a CPU, where a fetched copy is a copy too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned_model, "check_offload", lambda *_, **__: None)
        return load_engine(replace(settings, options={"offload": "experts"}), mesh)


def request_of(kind: str) -> GenerationRequest:
    name, task, changes = KINDS[kind]
    return defaults(name, task, (REQUEST.width, REQUEST.height), **changes)  # 45 tokens, as in REQUESTS


@cache
def vae_of(form: Any) -> Any:
    """Return the VAE of a form, which no run changes."""
    return form()


def decoded(form: Any, height: int, conv: str, mesh: Mesh | None = None) -> list[torch.Tensor]:
    """Decode a video of three latent frames, in chunks."""
    vae = StreamingVae(vae_of(form), chunk_pixels=1, mesh=mesh, conv=CONVS[conv])
    return list(vae.decode(noise(1, 8, 3, height, 5)))


def decoded_in_8_bits(mesh: Mesh | None = None) -> Iterator[torch.Tensor]:
    """Decode a video in chunks, the two largest resolutions by convolutions in 8 bits."""
    vae = StreamingVae(vae_of(wan21), chunk_pixels=1, mesh=mesh, large=eight_bit_form(torch.device("cpu")))
    return vae.decode(noise(1, 8, 3, 9, 5))


def overflowing(mesh: Mesh | None = None) -> Iterator[torch.Tensor]:
    """Decode a video that overflows from its second chunk on."""
    vae, latents = late_overflow(height=8)
    return StreamingVae(vae, chunk_pixels=1, mesh=mesh, sturdy=torch.float64).decode(latents)


def encoded(form: Any, height: int, conv: str, mesh: Mesh | None = None) -> torch.Tensor:
    """Encode a picture, gray for a while, and another picture."""
    vae = StreamingVae(vae_of(form), mesh=mesh, conv=CONVS[conv])
    video = torch.zeros(1, 3, 21, height * vae.spatial_stride, 3 * vae.spatial_stride)
    video[:, :, ::20] = noise(1, 3, 2, *video.shape[3:]).clamp(-1, 1)
    return vae.encode(video)


def runs(rank: LaunchedRank, plans: list[ParallelPlan]) -> None:
    """Make every run under every plan, then the refusals and stops that must leave a group usable."""
    rank.join()
    for plan in plans:
        built = model(rank.mesh(plan))
        for name in RUNS:
            rank.send((plan, name, latents(built.engine, name).numpy()))
        if plan.ring == 1:
            for name in SPARSE:
                rank.send((plan, name, sparse_latents(built.engine, name).numpy()))
        for row in ROWS:
            rank.send((plan, f"8 bits, {row}", attended_in_8_bits(built.engine.parts.denoiser.mesh, row)))
        rank.send((plan, "frames", list(generate(built.engine, LONG))))
    mesh = built.engine.parts.denoiser.mesh
    for form, height, conv in DECODES:
        chunks = [chunk.numpy() for chunk in decoded(form, height, conv, mesh)]
        rank.send((plan, f"decode {form.__name__} {height} {conv}", chunks))
        latents_of_all = encoded(form, height, conv, mesh).numpy()
        rank.send((plan, f"encode {form.__name__} {height} {conv}", latents_of_all))
    rank.send((plan, "decode in 8 bits", [chunk.numpy() for chunk in decoded_in_8_bits(mesh)]))
    rank.send((plan, "overflow", [chunk.double().numpy() for chunk in overflowing(mesh)]))
    rank.send((plan, "stopped", decode_stopped(built.engine)))
    rank.send((plan, "left", left_at(built.engine, who=rank.ranks - 1, me=rank.number)))
    rank.send((plan, "refused", refused(built.engine, culprit=rank.number == rank.ranks - 1)))
    rank.send((plan, "after", latents(built.engine, "i2v").numpy()))
    del dist.all_gather_single  # as before torch 2.13
    rank.send((plan, "older torch", latents(built.engine, "i2v").numpy()))


def kinds(rank: LaunchedRank, plans: list[ParallelPlan], folders: dict[str, Path]) -> None:
    """Make a run of every published kind of model under every plan."""
    rank.join()
    for plan in plans:
        mesh = rank.mesh(plan)
        for kind in KINDS:
            engine = loaded(kind, folders, mesh)
            rank.send(((plan, kind), run_to_end(engine, request_of(kind)).numpy()))


def left_at(engine: WanEngine, who: int, me: int) -> int:
    """Return the step at which a run ends when rank ``who`` alone asks to leave after two steps."""
    run = engine.prepare(replace(REQUEST, steps=6))
    mesh = engine.parts.denoiser.mesh
    while not mesh.agree(me == who and run.step == 2):
        if me == 0:
            engine.preview(run)  # which asks nothing of the others
        engine.denoise_step(run)
    return run.step


def decode_stopped(engine: WanEngine) -> int:
    """Return the number of chunks decoded when the reader of the frames stops after the first."""
    run = engine.prepare(SHORT)
    while run.step < run.total_steps:
        engine.denoise_step(run)
    chunks = 0
    for _ in engine.decode(run):
        chunks += 1
        break
    return chunks


def refused(engine: WanEngine, culprit: bool) -> list[str]:
    """Return the errors where the last rank alone fails to prepare, then rank 0 alone to encode."""

    def fail(*_: object) -> Any:
        raise RuntimeError("broken")

    seen = []
    text: Any = engine.parts.text
    for owner, name, broken in (
        (engine.parts.denoiser, "rotation", culprit),
        (text.text, "encode", text.text is not None),
    ):
        method = getattr(owner, name, None)
        if broken:
            setattr(owner, name, fail)
        try:
            engine.prepare(REQUESTS["i2v"])
        except ModelError as error:
            seen.append(type(error).__name__)
        finally:
            if broken:
                setattr(owner, name, method)
    return seen


def fault(rank: LaunchedRank, plan: ParallelPlan, how: str) -> None:
    """Make a run in whose second step the last rank dies, hangs or fails."""
    rank.join()
    built = model(rank.mesh(plan))
    rank.meet()
    run = built.engine.prepare(SHORT)
    built.engine.denoise_step(run)
    if rank.number == rank.ranks - 1:
        built.engine.parts.denoiser.transformer.blocks[1].norm1.forward = lambda *_: broken(how)
    try:
        built.engine.denoise_step(run)
    except GroupLost as error:
        rank.send(str(error))
        # and it stays so: the lost rank is not waited for again
        mesh = built.engine.parts.denoiser.mesh
        for again in (lambda: built.engine.denoise_step(run), lambda: mesh.agree(True)):
            try:
                again()
            except GroupLost as lost:
                rank.send(str(lost))
        raise


def encode_fault(rank: LaunchedRank, plan: ParallelPlan) -> None:
    """Encode a picture for which the last rank has no memory."""
    rank.join()
    built = model(rank.mesh(plan))
    rank.meet()
    if rank.number == rank.ranks - 1:
        built.engine.parts.vae.encoder.layers[2].forward = lambda *_: broken("fails")
    built.engine.prepare(REQUESTS["i2v"])


def broken(how: str) -> None:
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        threading.Event().wait()
    raise MemoryError
