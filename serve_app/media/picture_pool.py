"""The threads that decode pictures: few and their own, so that nothing else waits behind them."""

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LARGE_PIXELS = 4_000_000
"""Above so many pixels one picture is decoded at a time; of smaller ones another one beside it."""

_Result = TypeVar("_Result")

_small = ThreadPoolExecutor(1, "small-pictures")
_large = ThreadPoolExecutor(1, "large-pictures")


async def in_picture_pool(pixels: int, work: Callable[[], _Result]) -> _Result:
    """Run work on a picture of about so many pixels in a thread, after the other pictures of its kind.

    All requests of the process share them, so that what decoding takes is bounded, whoever sends pictures.
    """
    loop = asyncio.get_running_loop()
    if pixels <= LARGE_PIXELS:
        return await loop.run_in_executor(_small, work)
    try:
        return await loop.run_in_executor(_large, work)
    finally:
        await loop.run_in_executor(_large, _give_memory_back)


def _give_memory_back() -> None:
    """Have glibc hand freed memory back: a picture's would else stay with the process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have none
        trim(0)
