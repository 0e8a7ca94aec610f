"""Fetching of images from the open web, with a guard against server-side request forgery (SSRF).

A host name is resolved once, every address it resolves to must be public, and the connection goes to one of
those very addresses, so DNS rebinding gains nothing. Each redirect starts over.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import httpx

from serve_app.errors import ImageUnreadable, PathForbidden, ServiceError, TooLarge

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[tuple[Address, ...]]]

MAX_REDIRECTS = 3
CONNECT_TIMEOUT_S = 3.0  # for one address, so that a dead one leaves time for the next

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries any IPv4 address
        "3fff::/20",  # documentation
    )
)
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "100.64.0.0/10",  # carrier NAT, and the metadata service of one cloud
        "168.63.129.16/32",  # a public number that one cloud serves to its own machines only
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
    )
)


def is_public(address: Address) -> bool:
    """Return whether ``address`` is public, also where it is an IPv6 address that embeds an IPv4 address."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        return address in _GLOBAL_UNICAST and not any(address in network for network in _REFUSED_V6)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _REFUSED_V4)
    )


async def system_resolve(host: str, port: int) -> tuple[Address, ...]:
    """Resolve all addresses of ``host``, in the system's order. Raises ``OSError`` or ``UnicodeError``."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local address may carry a zone after "%"; the policy does not need it.
    return tuple(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


@dataclass(frozen=True, slots=True)
class UrlFetch:
    """Reads ``http`` and ``https`` URLs up to ``max_bytes``, within ``timeout_s`` for all redirects together.

    ``is_allowed`` decides which addresses may be connected to; ``resolve`` turns a host name into addresses.
    """

    max_bytes: int
    timeout_s: float = 10.0
    is_allowed: Callable[[Address], bool] = is_public
    resolve: Resolve = system_resolve
    # Made once: loading the certificate authorities takes tens of milliseconds.
    ssl_context: ssl.SSLContext = field(default_factory=lambda: httpx.create_ssl_context(trust_env=False))

    async def read(self, url: str) -> bytes:
        """Fetch the bytes of ``url``.

        Raises ``PathForbidden`` for a host that is not public, ``TooLarge``, and ``ImageUnreadable`` for all
        else.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise ImageUnreadable(f"The image URL did not answer within {self.timeout_s:g} s.") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError):
            # Their texts may name addresses, so none is passed on.
            raise ImageUnreadable("The image URL could not be fetched.") from None

    async def _follow(self, url: str) -> bytes:
        target = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._read_one(target)
            if isinstance(answer, bytes):
                return answer
            target = target.join(answer)
        raise ImageUnreadable(f"The image URL redirects more than {MAX_REDIRECTS} times.")

    async def _read_one(self, url: httpx.URL) -> bytes | str:
        """Return the body of ``url``, or the URL that it redirects to."""
        if url.scheme not in ("http", "https") or not url.host:
            raise ImageUnreadable("The image URL must start with http:// or https:// and name a host.")
        if url.userinfo:
            raise ImageUnreadable("The image URL must not carry a user name or a password.")
        if url.port is not None and not 0 < url.port < 65536:
            raise ImageUnreadable("The image URL names a port that does not exist.")
        unreachable: httpx.TransportError | None = None
        for address in await self._addresses(url):
            try:
                return await self._read_from(address, url)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                unreachable = error
        assert unreachable is not None
        raise unreachable

    async def _addresses(self, url: httpx.URL) -> tuple[Address, ...]:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            addresses = await self.resolve(url.raw_host.decode("ascii"), port)
        except (OSError, ValueError):
            addresses = ()
        # One sentence for both, so that nobody can ask us which names our network knows.
        if not addresses or not all(self.is_allowed(address) for address in addresses):
            raise PathForbidden("The image URL's host has no public address.")
        return addresses

    async def _read_from(self, address: Address, url: httpx.URL) -> bytes | str:
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Accept": "image/jpeg, image/png, image/webp",
            "Accept-Encoding": "identity",  # a compressed body could unfold past the limit
            "User-Agent": "wan-serve",
        }
        # A client per request: a kept connection would serve the next host under this host's certificate.
        client = httpx.AsyncClient(
            verify=self.ssl_context,
            trust_env=False,
            timeout=httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S),
        )
        async with (
            client,
            client.stream(
                "GET",
                url.copy_with(host=str(address)),
                headers=headers,
                # Also what the certificate must name.
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            ) as response,
        ):
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return response.headers["location"]
            return await self._body(response)

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise ImageUnreadable(f"The image URL answered with status {response.status_code}.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ImageUnreadable("The image URL answered with a compressed body.")
        if int(response.headers.get("content-length", "0")) > self.max_bytes:
            raise self._too_large()
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self.max_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ServiceError:
        return TooLarge(f"The image behind the URL is over the limit of {self.max_bytes} bytes.")
