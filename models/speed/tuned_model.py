"""Application of the speed settings to a model's parts while they are loaded."""

import logging
from dataclasses import replace
from typing import Any

import torch

from models.attention.approximation import Approximation
from models.attention.kernel_choice import AttentionChoice, AttentionShape, agree, choose, why_not_sparse
from models.attention.kernels import LOSSY
from models.attention.sparse import SparseAttention
from models.errors import TuningError
from models.kernels.choice import OperationsWidth, choose_operations
from models.kernels.eager import EAGER
from models.kernels.epilogue import EPILOGUE
from models.kernels.operations import FP8, Operations
from models.memory.estimate import KernelScratch
from models.memory.scratch import kernel_scratch
from models.parallel.mesh import Mesh
from models.speed.compiled import compiled_parts, rehearse
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.speed.fp8 import QUANTISING_BYTES, check_fp8, closeness
from models.speed.offload import Offloader, StreamedBlocks, WholeTransformer, check_offload
from models.speed.quantised_blocks import QuantisedAfterUse
from models.transformer.block import BlockParts, blocks_in_order, uncompiled_parts
from models.transformer.block_weights import BlockWeights, Resident
from models.transformer.denoiser import Denoiser
from models.transformer.projections import join_projections
from models.transformer.step_cache import check_cache
from models.tuning import Offload, Tuning
from models.vae.eight_bit_conv import check_eight_bits
from models.variants import Variant
from models.weights.arrival import Arrival

_LOGGER = logging.getLogger(__name__)

_COMPARISON = DummyShape(frames=3, height=32, width=32)
"""Shape of the dummy forward that compares fp8 with the unquantised model."""


class TunedModel:
    """Speed settings of one model during loading. Every rank of a group makes its own, from the same
    settings.

    Raises ``TuningError`` for settings that cannot work: most of them at once, before anything large is read,
    and from ``denoiser`` those that only the weights or a dummy forward show.
    """

    def __init__(
        self, tuning: Tuning, variant: Variant, device: torch.device, dtype: torch.dtype, mesh: Mesh
    ) -> None:
        check_cache(tuning.cache_threshold, variant)
        if tuning.unguided_steps > 0 and variant.distilled:
            raise TuningError(f"unguided_steps must be 0 for {variant.name}: it runs without guidance.")
        if tuning.low_resolution_steps > 0 and (variant.image_channels or variant.control_blocks):
            raise TuningError(
                f"low_resolution_steps must be 0 for {variant.name}: what it is shown is of the video's size."
            )
        check_offload(tuning, device, two_experts=variant.boundary is not None)
        if tuning.fp8:
            check_fp8(device, dtype)
        if tuning.vae_fp8:
            check_fp8(device, dtype, "vae_fp8")
            with mesh.together():
                check_eight_bits(device, torch.float16 if tuning.vae_float16 else dtype, variant.vae_dim)
        self._tuning = tuning
        self._variant = variant
        self._device = device
        self._dtype = dtype
        self._mesh = mesh
        self._offloader = Offloader(device)
        mesh.plan.check_heads(variant.heads)
        self._approximation = self._chosen_approximation()
        if self._approximation is not None:
            _LOGGER.info(
                "%s: attention %s, but exact in the first %g of the steps and %d of the blocks",
                variant.name,
                f"of sparsity {tuning.sparsity:g}" if tuning.sparsity > 0 else tuning.attention,
                tuning.exact_steps,
                tuning.exact_blocks,
            )
        self._attention = self._chosen_attention()
        self._operations = self._chosen_operations()
        self._block_parts: BlockParts | None = None

    def place(self, offload: Offload) -> None:
        """Set the offloading that was chosen by what fits, before a part is loaded."""
        self._tuning = replace(self._tuning, offload=offload)

    @property
    def waits(self) -> bool:
        """Whether a transformer stays in its files until its weights are wanted: they are offloaded, or
        quantised on their way.
        """
        return self._tuning.fp8 or self._tuning.offload != "none"

    @property
    def scratch(self) -> KernelScratch:
        """Scratch memory of the kernels that run the model."""
        fused = self._operations is not EAGER
        quantised = 0.0
        if self._tuning.fp8:  # a fused kernel has 8 bits as its only result
            quantised = FP8.itemsize if fused else self._dtype.itemsize + QUANTISING_BYTES
        eight_bit_heads = self._tuning.attention == "flash3_fp8"
        return replace(
            kernel_scratch(self._device, self._dtype),
            quantised=quantised,
            fused=fused,
            gelu_in_product=self._operations is EPILOGUE,
            eight_bit_heads=eight_bit_heads,
            eight_bit_volumes=self._tuning.vae_fp8,
        )

    def denoiser(self, arrival: Arrival, *, keeps_originals: bool = False) -> Denoiser:
        """Apply the settings to a transformer that arrives, the only one or one expert, and return its
        denoiser.

        ``keeps_originals``: keep quantised weights as they were, too, so that LoRAs can be merged into them.
        Raises ``TuningError`` for a setting that does not work with this transformer.
        """
        transformer = arrival.model
        if self._tuning.fp8:
            self._quantise(arrival, keeps_originals)
        elif self.waits:
            join_projections(blocks_in_order(transformer)[0], arrival)
        else:
            arrival.bring((*transformer.parameters(), *transformer.buffers()))
            join_projections(blocks_in_order(transformer)[0])
        kernel = self._attention.kernel
        if self._tuning.compile:
            block_parts = self._compiled(transformer)
        else:
            block_parts = uncompiled_parts(self._mesh.plan, self._operations)
        weights = self._weights(arrival)
        return Denoiser(
            transformer,
            self._mesh,
            attention=kernel,
            approximation=self._approximation,
            block_parts=block_parts,
            weights=weights,
        )

    def rest(self) -> None:
        """Bring all weights to where they may be changed in place: offloaded ones to the host."""
        self._offloader.rest()

    def growth(self, module: Any) -> int:
        """Return by how many bytes weights on the device will have grown when ``module`` is at work."""
        return self._offloader.growth(module)

    def offloaded(self, module: Any) -> Any:
        """Register another part of the model for offloading, if set, and return the part."""
        if self._tuning.offload in ("model", "group"):
            self._offloader.add(module)
        return module

    def _quantise(self, arrival: Arrival, keeps_originals: bool) -> None:
        """Quantise the transformer on its way to the device; log how near it stays to what it was."""
        variant, transformer = self._variant, arrival.model
        config = transformer.config
        quantised = QuantisedAfterUse(arrival, self._operations, keeps_originals=keeps_originals)
        passing = Denoiser(transformer, weights=quantised)
        encoder = Denoiser(transformer, weights=Resident(self._device))
        expected = dummy_forward(passing, variant, config, _COMPARISON, encoder)
        found = closeness(dummy_forward(Denoiser(transformer), variant, config, _COMPARISON), expected)
        _LOGGER.info("%s in fp8, beside %s: %s", self._variant.name, self._dtype, found)

    def _chosen_attention(self) -> AttentionChoice:
        """Choose the exact kernel of all ranks, which are all here: later, some still load when others do
        not.
        """
        setting = self._tuning.attention
        with self._mesh.together():
            choice = choose("auto" if setting in LOSSY else setting, self._device, self._dtype, self._shape)
        choice = agree(choice, self._mesh)
        _LOGGER.info("%s: %s", self._variant.name, choice)
        return choice

    def _chosen_approximation(self) -> Approximation | None:
        """Make what the settings put in place of exact attention, if anything."""
        tuning = self._tuning
        if tuning.attention not in LOSSY:
            return self._sparse() if tuning.sparsity > 0 else None
        if tuning.sparsity > 0:
            raise TuningError(
                f"sparsity must be 0 with attention {tuning.attention}: sparse attention is a kernel too."
            )
        with self._mesh.together():
            choice = choose(tuning.attention, self._device, self._dtype, self._shape)
        return Approximation(choice.kernel, tuning.exact_blocks)

    def _sparse(self) -> Approximation:
        if self._mesh.plan.ring > 1:
            raise TuningError(
                "sparsity must be 0 in a ring, where no device has all keys of a head: choose Ulysses."
            )
        with self._mesh.together():
            reason = why_not_sparse(self._device, self._dtype, self._variant.head_dim)
            if reason is not None:
                raise TuningError(f"sparsity must be 0 here: sparse attention {reason}.")
        return Approximation(SparseAttention(self._tuning.sparsity), self._tuning.exact_blocks, in_order=True)

    @property
    def _shape(self) -> AttentionShape:
        plan, variant = self._mesh.plan, self._variant
        tokens = variant.tokens(variant.width, variant.height, variant.num_frames)
        return AttentionShape(variant.heads // plan.ulysses, tokens, variant.head_dim, plan.ring)

    def _chosen_operations(self) -> Operations:
        if self._tuning.compile:
            return EAGER  # the compiler fuses them
        variant = self._variant
        width = OperationsWidth(variant.heads, variant.head_dim, variant.ffn_dim)
        with self._mesh.together():
            choice = choose_operations(self._device, self._dtype, width, eight_bits=self._tuning.fp8)
        _LOGGER.info("%s: %s", variant.name, choice)
        return choice.operations

    def _compiled(self, transformer: Any) -> BlockParts:
        """Compile the block parts once: both experts of a model have the same blocks."""
        if self._block_parts is None:
            self._block_parts = compiled_parts(self._mesh.plan)
            alone = Denoiser(transformer, attention=self._attention.kernel, block_parts=self._block_parts)
            rehearse(alone, self._variant, self._mesh.plan, transformer.config)
        return self._block_parts

    def _weights(self, arrival: Arrival) -> BlockWeights | None:
        if self._tuning.offload in ("experts", "model"):
            return WholeTransformer(arrival.model, self._offloader, arrival)
        if self._tuning.offload == "group":
            blocks, _ = blocks_in_order(arrival.model)
            return StreamedBlocks(arrival.model, blocks, self._offloader, arrival)
        return None
