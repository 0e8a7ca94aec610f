"""Fetching from URLs: the bytes that come back, and no URL that reaches an address that is not public."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve_app.errors import ImageUnreadable, PathForbidden, ServiceError, TooLarge
from serve_app.media.image_intake import ImageIntake
from serve_app.media.public_http import Address, PublicHttp, is_public
from serve_app.media.url_fetch import UrlFetch

LOOPBACK = ipaddress.ip_address("127.0.0.1")
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A real HTTP server on loopback that keeps the requests it got."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[str] = []

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            server.requests.append(request)
            await answer(request.split()[1], writer)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    server = Server(listener.sockets[0].getsockname()[1])
    async with listener:
        yield server


def response(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    headers.setdefault("content_length", str(len(body)))
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(data: bytes) -> Answer:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def fetch(*, timeout_s: float = 10.0, **changes: Any) -> UrlFetch:
    """Return a fetch for which loopback addresses are allowed."""
    http = PublicHttp(is_allowed=lambda address: address.is_loopback)
    return UrlFetch(max_bytes=1000, timeout_s=timeout_s, http=replace(http, **changes))


def resolving(**names: str) -> Callable[[str, int], Awaitable[tuple[Address, ...]]]:
    """Return a resolver that answers as a DNS server would; underscores stand for dots."""

    async def resolve(host: str, port: int) -> tuple[Address, ...]:
        if host.replace(".", "_") not in names:
            raise OSError("no such name")
        return tuple(ipaddress.ip_address(text) for text in names[host.replace(".", "_")].split())

    return resolve


# --- which addresses are public ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
        "168.63.129.16", "169.254.169.254", "172.16.0.1", "192.0.0.1", "192.0.2.1", "192.88.99.1",
        "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
        "2002:7f00:1::", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0", "127.1", "2130706433", "0x7f.1"]
)
async def test_by_default_our_own_machine_is_refused(host: str) -> None:
    async with serving(always(response(b"secret"))) as server:
        with pytest.raises(PathForbidden) as caught:
            await UrlFetch(max_bytes=1000).read(server.url(host=host))
    assert server.requests == []
    assert "127" not in caught.value.detail


async def test_one_address_that_is_not_public_is_enough_to_refuse() -> None:
    names = resolving(mixed_example="127.0.0.1 10.0.0.1")
    async with serving(always(response(b"secret"))) as server:
        with pytest.raises(PathForbidden):
            await fetch(resolve=names).read(server.url(host="mixed.example"))
    assert server.requests == []


async def test_an_unknown_name_and_a_private_one_answer_alike() -> None:
    details = set()
    for host in ("unknown.example", "private.example"):
        with pytest.raises(PathForbidden) as caught:
            await fetch(resolve=resolving(private_example="10.0.0.1")).read(f"http://{host}/")
        details.add(caught.value.detail)
    assert len(details) == 1


async def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """Resolve a name once: it exists nowhere but in the first answer, so a second look-up would fail."""
    answers = [(LOOPBACK,)]

    async def once(host: str, port: int) -> tuple[Address, ...]:
        return answers.pop()

    async with serving(always(response(b"picture"))) as server:
        assert await fetch(resolve=once).read(server.url("/a.png?b=c", host="images.example")) == b"picture"
    assert server.requests[0].startswith("GET /a.png?b=c HTTP/1.1\r\n")
    assert f"host: images.example:{server.port}\r\n" in server.requests[0].lower()


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async with serving(always(response(b"picture"))) as server:
        names = resolving(two_example="127.0.0.9 127.0.0.1")  # nothing listens on the first
        assert await fetch(resolve=names).read(server.url(host="two.example")) == b"picture"


# --- what comes back --------------------------------------------------------------------------------------


async def test_the_intake_reads_an_image_behind_a_url() -> None:
    from tests.unit.test_image_intake import encoded, picture

    async with serving(always(response(encoded(picture())))) as server:
        source = await ImageIntake(url_fetch=fetch()).read(server.url("/cat"))
    assert (source.width, source.height) == (40, 24)


async def test_a_chunked_body_is_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving(always(chunked)) as server:
        assert await fetch().read(server.url()) == b"abcde"


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "500 Oops", "304 Not Modified"])
async def test_another_status_is_refused_with_its_number(status: str) -> None:
    async with serving(always(response(status=status))) as server:
        with pytest.raises(ImageUnreadable, match=status[:3]):
            await fetch().read(server.url())


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_too_large() -> None:
    for size, declared in ((1000, True), (1000, False)):
        head = {} if declared else {"content_length": "", "transfer_encoding": "identity"}
        data = response(bytes(size), **head) if declared else b"HTTP/1.1 200 OK\r\n\r\n" + bytes(size)
        async with serving(always(data)) as server:
            assert len(await fetch().read(server.url())) == size
        async with serving(always(data.replace(b": 1000", b": 1001") + b"\0")) as server:
            with pytest.raises(TooLarge):
                await fetch().read(server.url())


async def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(500))
            await writer.drain()

    async with serving(endless) as server:
        with pytest.raises(TooLarge):
            await fetch().read(server.url())


async def test_a_compressed_body_is_refused() -> None:
    async with serving(always(response(b"xx", content_encoding="gzip"))) as server:
        with pytest.raises(ImageUnreadable, match="compressed"):
            await fetch().read(server.url())


@pytest.mark.parametrize("broken", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na"])
async def test_a_broken_answer_is_a_refusal(broken: bytes) -> None:
    async with serving(always(broken)) as server:
        with pytest.raises(ImageUnreadable):
            await fetch().read(server.url())


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"])
async def test_a_server_that_stalls_is_given_up(begin: bytes) -> None:
    given_up = asyncio.Event()

    async def stall(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        await writer.drain()
        await given_up.wait()

    async with serving(stall) as server:
        with pytest.raises(ImageUnreadable, match="within"):
            await fetch(timeout_s=0.2).read(server.url())
        given_up.set()


async def test_a_refused_connection_names_no_address() -> None:
    async with serving(always(b"")) as server:
        url = server.url()
    with pytest.raises(ImageUnreadable) as caught:
        await fetch().read(url)
    assert "127" not in caught.value.detail


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(response(b"direct"))) as server, serving(always(response(b"proxied"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url())
        monkeypatch.setenv("ALL_PROXY", proxy.url())
        assert await fetch().read(server.url()) == b"direct"


# --- redirects --------------------------------------------------------------------------------------------


def counting_down() -> Answer:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        left = int(path.strip("/"))
        onward = response(status="302 Found", location=f"/{left - 1}")
        writer.write(onward if left else response(b"there"))

    return answer


async def test_three_redirects_are_followed_and_a_fourth_is_not() -> None:
    async with serving(counting_down()) as server:
        assert await fetch().read(server.url("/3")) == b"there"
        with pytest.raises(ImageUnreadable, match="redirects"):
            await fetch().read(server.url("/4"))


async def test_a_redirect_keeps_the_name_it_is_relative_to() -> None:
    async with serving(counting_down()) as server:
        names = resolving(images_example="127.0.0.1")
        assert await fetch(resolve=names).read(server.url("/1", host="images.example")) == b"there"
    assert all("host: images.example:" in request.lower() for request in server.requests)


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("http://10.0.0.1/", PathForbidden),
        ("http://[::ffff:10.0.0.1]/", PathForbidden),
        ("//169.254.169.254/latest", PathForbidden),
        ("file:///etc/passwd", ImageUnreadable),
        ("ftp://127.0.0.1/", ImageUnreadable),
        ("http://me:secret@127.0.0.1/", ImageUnreadable),
        ("http://host:port/", ImageUnreadable),
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(location: str, kind: type[ServiceError]) -> None:
    async with serving(always(response(status="302 Found", location=location))) as server:
        with pytest.raises(kind):
            await fetch().read(server.url())
    assert len(server.requests) == 1


# --- URLs that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://user@127.0.0.1/", "http://user:word@127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/",
        "http://", "http:///path", "http://[::1", "http://127.0.0.1:99999/", "http://a..b/", "http://\0/",
        "http://" + "a" * 300 + ".example/", "https://\ud800/", "http://127.0.0.1/" + "a" * 70_000,
    ],
)  # fmt: skip
async def test_a_url_that_cannot_be_read_is_a_refusal(url: str) -> None:
    with pytest.raises(ServiceError):
        await fetch().read(url)


async def test_a_url_with_a_user_name_is_refused_before_it_is_asked() -> None:
    async with serving(always(response(b"picture"))) as server:
        for user in ("me", "me:secret", ":secret"):
            with pytest.raises(ImageUnreadable, match="user name"):
                await fetch().read(server.url(host=f"{user}@127.0.0.1"))
    assert server.requests == []


# --- TLS --------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's TLS context with a certificate for ``name``, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    both = folder / "server.pem"
    both.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + pem
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(both)
    return server, ssl.create_default_context(cadata=pem.decode())


@pytest.mark.parametrize(("asked", "right"), [("images.example", True), ("other.example", False)])
async def test_the_certificate_must_name_the_host_and_not_the_address(
    tmp_path: Path, asked: str, right: bool
) -> None:
    names = resolving(images_example="127.0.0.1", other_example="127.0.0.1")
    server_tls, client_tls = certificate(tmp_path, "images.example")
    asked_for: list[str | None] = []
    server_tls.sni_callback = lambda connection, name, context: asked_for.append(name)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(always(response(b"picture")), server_tls))
        read = fetch(resolve=names, ssl_context=client_tls).read(server.url(host=asked, scheme="https"))
        if right:
            assert await read == b"picture"
        else:
            with pytest.raises(ImageUnreadable):
                await read
    assert asked_for == [asked]


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    server_tls, _ = certificate(tmp_path, "images.example")
    async with serving(always(response(b"picture")), server_tls) as server:
        with pytest.raises(ImageUnreadable):
            await fetch(resolve=resolving(images_example="127.0.0.1")).read(
                server.url(host="images.example", scheme="https")
            )
    assert server.requests == []
