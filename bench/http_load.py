"""Load on a server of this machine: many connections, each with its next request once one is answered.

Written on bare streams, because on two cores a client library would cost more than the server does. Only
loopback addresses are loaded.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

CONNECTIONS = 32
SMALL: Mapping[str, int] = {"width": 64, "height": 64, "num_frames": 5}


@dataclass(frozen=True, slots=True)
class Load:
    """The measured load: requests a second, and latencies in seconds, ascending."""

    rps: float
    latencies_s: tuple[float, ...]

    @property
    def p99_ms(self) -> float:
        """The latency that 99 of 100 requests stay under, in milliseconds."""
        return 1000 * self.latencies_s[int(0.99 * (len(self.latencies_s) - 1))]


async def load(url: str, request: Callable[[int], bytes], *, requests: int, connections: int) -> Load:
    """Send ``request(0)`` … ``request(requests - 1)``. Raises ``RuntimeError`` at an answer but 200."""
    address = urlsplit(url)
    if address.hostname != "127.0.0.1" or address.port is None:
        raise ValueError("only 127.0.0.1 is loaded")
    numbers = iter(range(requests))
    latencies: list[float] = []

    async def connection(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for number in numbers:
            began = time.perf_counter()
            while True:
                writer.write(request(number))
                try:
                    await _read_answer(reader)
                    break
                except _Closed:  # HAProxy does so to kept connections when it takes a new configuration
                    writer.close()
                    reader, writer = await asyncio.open_connection(host, port)
            latencies.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(connection(address.hostname, address.port) for _ in range(connections)))
    return Load(requests / (time.perf_counter() - began), tuple(sorted(latencies)))


def get(path: str) -> bytes:
    """Return a GET request as bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """Return a POST request with a JSON body as bytes."""
    headers = f"Host: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}".encode() + body


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has taken, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def submits(path: str) -> Callable[[int], bytes]:
    """Return submits of small videos at a path of the service, each with a prompt of its own."""

    def submit(number: int) -> bytes:
        prompt = f"A white cat sitting by the beach under sunset sky, take {number}"
        body = {"prompt": prompt, "infer_steps": 200, **SMALL}
        return post(f"{path}/v1/tasks/video", json.dumps(body).encode())

    return submit


class _Closed(Exception):
    """The server closed the connection instead of answering."""


async def _read_answer(reader: asyncio.StreamReader) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError) as error:
        raise _Closed from error
    status = int(head.split(b" ", 2)[1])
    if status != 200:
        raise RuntimeError(f"the server answered {status}")
    headers = head.lower()
    if b"\r\ncontent-length:" in headers:
        length = int(headers.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):  # chunked
        await reader.readexactly(size + 2)
    await reader.readuntil(b"\r\n")
