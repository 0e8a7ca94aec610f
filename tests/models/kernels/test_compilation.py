"""The kernels, compiled for a Hopper device: the compiler that comes with Triton needs none."""

import re
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.kernels import (
    block_sparse_kernel,
    conv_kernel,
    head_kernels,
    pixel_kernels,
    rotation_kernel,
    row_kernels,
    yuv_kernel,
)

HOPPER = GPUTarget("cuda", 90, 32)
NORM = {
    **dict.fromkeys(("x", "update", "summed"), "*bf16"),
    **dict.fromkeys(("gate", "weight", "bias", "shift", "scale"), "*fp32"),
    "eps": "fp32",
}

TILE = {"HEAD_DIM": 128, "CHUNK": 1024, "ROWS": 64, "BLOCK": 128}


def compiled(
    kernel: Any, types: dict[str, str], warps: int, stages: int = 3, multiple: int = 16, **constants: Any
) -> str:
    """Compile a kernel; return its assembly. What neither ``types`` nor ``constants`` has is an integer.

    Addresses are multiples of 16, as the real ones are, and integers of ``multiple``.
    """
    kinds = types | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    known = {"i32": [["tt.divisibility", multiple]]}
    source = ASTSource(
        kernel,
        signature,
        {places[name]: value for name, value in constants.items()},
        {
            places[name]: known.get(kind, [["tt.divisibility", 16]])
            for name, kind in signature.items()
            if kind == "i32" or kind[0] == "*"
        },
    )
    assembly: str = triton.compile(
        source, target=HOPPER, options={"num_warps": warps, "num_stages": stages}
    ).asm["ptx"]
    return assembly


@pytest.mark.slow
def test_kernels_compile_for_hopper_and_move_16_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    eight, scales = {"normed": "*fp8e4nv", "out": "*fp8e4nv"}, {"scales": "*fp32"}
    made = {
        "norm": compiled(
            row_kernels.residual_norm_kernel,
            NORM | {"normed": "*bf16"},
            16,
            scales=None,
            EIGHT_BITS=False,
            BLOCK=8192,
        ),
        "norm in 8 bits": compiled(
            row_kernels.residual_norm_kernel, NORM | eight | scales, 16, EIGHT_BITS=True, BLOCK=8192
        ),
        "gelu in 8 bits": compiled(
            row_kernels.scaled_rows_kernel, {"x": "*bf16"} | eight | scales, 16, GELU=True, BLOCK=16384
        ),
        "rotation": compiled(
            rotation_kernel.rms_norm_rotate_kernel,
            {
                **dict.fromkeys(("x", "first_weight", "second_weight", "out"), "*bf16"),
                "rotation": "*fp32",
                "eps": "fp32",
            },
            16,
            BLOCK=8192,
        ),
        "statistics of heads": compiled(
            head_kernels.head_statistics_kernel, {"x": "*bf16", "statistics": "*fp32"}, 4, **TILE
        ),
        "heads in 8 bits": compiled(
            head_kernels.scaled_heads_kernel,
            {"x": "*bf16", "statistics": "*fp32", "values": "*fp8e4nv"} | scales,
            4,
            CENTRED=True,
            GROUP=16,
            **TILE,
        ),
    }
    for name, assembly in made.items():
        loads = set(re.findall(r"ld\.global[.\w]*", assembly))
        assert loads == {"ld.global.v4.b32"}, f"{name}: {loads}"
        assert ("st.global.v4.b32" in assembly) != (name == "statistics of heads"), name
        assert ("cvt.rn.satfinite.e4m3x2.f32" in assembly) == ("8 bits" in name), name


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "width"), [(96, 128), (384, 512)])
def test_the_vaes_kernels_move_16_bytes_at_a_time_in_frames_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, width: int
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    frames = ("x", "residual", "gamma", "before", "volume", "latest", "summed", "out")
    types = dict.fromkeys(frames, "*bf16")
    types |= {"bias": "*fp32", "eps": "fp32"}
    sizes: dict[str, Any] = {"CHANNELS": channels, "WIDTH": width, "PIXELS": 4096 // width}
    plain: dict[str, Any] = sizes | {"PAST": 2, "GROUP": 0, "scale": None}
    for assembly in (
        compiled(pixel_kernels.fill_volume_kernel, types, 4, **plain, multiple=1),
        compiled(
            pixel_kernels.fill_volume_kernel,
            types,
            4,
            **plain,
            TIME=2,  # a residual whose values are repeated
            SIZE=2,
            OWN=channels,
            multiple=1,
        ),
        compiled(pixel_kernels.add_frames_kernel, types, 4, **sizes, PARTS=2, multiple=1),
    ):
        assert assembly.count("ld.global.v4.b32") >= 8  # frames and residual, of four each
        assert set(re.findall(r"st\.global[.\w]*", assembly)) == {"st.global.v4.b32"}


@pytest.mark.slow
def test_frames_are_read_as_they_lie_and_written_as_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shares = {"RED": 0.2, "BLUE": 0.1, "RED_CHROMA": 140.0, "BLUE_CHROMA": 120.0}
    constants: dict[str, Any] = shares | {"TAPS": (0.1, 0.2, 0.3, 0.4), "BLOCK": 128}
    types = {"frames": "*bf16", "out": "*u8"}
    assembly = compiled(yuv_kernel.yuv420p_kernel, types, 4, multiple=1, **constants)
    assert len(re.findall(r"ld\.global\.b16", assembly)) == 3 * 2 * 8  # colours, columns and rows of a pixel
    assert len(re.findall(r"st\.global\.b8", assembly)) == 4 + 2


@pytest.mark.slow
def test_block_sparse_attention_compiles_to_hoppers_products_and_fits_its_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = {
        **dict.fromkeys(("queries", "keys", "values", "out"), "*bf16"),
        "kept": "*i32",
        "scale": "fp32",
    }
    assembly = compiled(
        block_sparse_kernel.block_sparse_kernel, types, 8, 3, HEAD_DIM=128, TOKENS=128, KEYS=64, BLOCK=128
    )
    assert "wgmma.mma_async" in assembly
    assert "cp.async" in assembly  # keys and values are on their way while others are multiplied


@pytest.mark.slow
def test_volumes_in_8_bits_move_16_bytes_at_a_time_and_keep_what_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = dict.fromkeys(("x", "residual", "gamma", "summed"), "*bf16")
    types |= dict.fromkeys(("before", "volume", "latest"), "*fp8e4nv")
    types |= {"bias": "*fp32", "scale": "*fp32", "eps": "fp32"}
    sizes: dict[str, Any] = {"CHANNELS": 96, "WIDTH": 128, "PIXELS": 32, "PAST": 2, "GROUP": 0}
    assembly = compiled(pixel_kernels.fill_volume_kernel, types, 4, **sizes, multiple=1)
    assert "cvt.rn.satfinite.e4m3x2.f32" in assembly
    assert "min.NaN." in assembly
    assert set(re.findall(r"st\.global[.\w]*", assembly)) == {"st.global.v4.b32"}


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "outputs"), [(96, (64, 32)), (192, (128, 64)), (512, (128, 0))])
def test_the_8_bit_convolution_compiles_to_hoppers_products_and_gathers_16_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, outputs: tuple[int, int]
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    wide, rest = conv_kernel.output_tiles(channels)
    assert (wide, rest) == outputs
    tile = conv_kernel.TILE
    types = dict.fromkeys(("volume", "weight"), "*fp8e4nv") | {"out": "*bf16"}
    types |= dict.fromkeys(("scale", "weight_scale"), "*fp32")
    assembly = compiled(
        conv_kernel.convolve_kernel,
        types,
        tile.warps,
        tile.stages,
        multiple=1,
        CHANNELS=channels,
        OUTPUTS=channels,
        PIXELS=tile.pixels,
        DEPTH=tile.depth,
        WIDE=wide,
        REST=rest,
    )
    products = set(re.findall(r"wgmma\.mma_async\S*\.m64n(\d+)k32\.f32\.e4m3\.e4m3", assembly))
    assert products == {str(count) for count in outputs if count}
    assert set(re.findall(r"cp\.async\.c[ag]", assembly)) == {"cp.async.cg"}  # 16 bytes, none fewer
    assert set(re.findall(r"st\.global[.\w]*", assembly)) == {"st.global.v4.b32"}
