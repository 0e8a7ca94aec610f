"""HTTP requests to hosts that a client names, with a guard against server-side request forgery (SSRF).

A host name is resolved once, every address it resolves to must be public, and the connection goes to one of
those very addresses, so DNS rebinding gains nothing. No redirect is followed: that is for the caller, whose
next request is checked like the first.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx

Address = IPv4Address | IPv6Address
Content = bytes | AsyncIterable[bytes]
Resolve = Callable[[str, int], Awaitable[tuple[Address, ...]]]

# It tells each URL at INFO, and a client's may hold a secret.
logging.getLogger("httpx").setLevel(logging.WARNING)

CONNECT_TIMEOUT_S = 3.0  # for one address, so that a dead one leaves time for the next

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


def public_or_in(networks: Sequence[IPv4Network | IPv6Network]) -> Callable[[Address], bool]:
    """Return the test for an address that is public or in one of these networks."""
    return lambda address: is_public(address) or any(address in network for network in networks)


async def system_resolve(host: str, port: int) -> tuple[Address, ...]:
    """Resolve all addresses of ``host``, in the system's order. Raises ``OSError`` or ``UnicodeError``."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local address may carry a zone after "%"; the policy does not need it.
    return tuple(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


class BadUrl(ValueError):
    """The URL is not one that is asked; its text is a predicate, such as "must name a host"."""


class NotPublic(Exception):
    """The host is unknown, or has an address that may not be connected to."""


def checked_url(text: str) -> httpx.URL:
    """Parse an ``http`` or ``https`` URL. Raises ``BadUrl``."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise BadUrl("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BadUrl("must start with http:// or https:// and name a host")
    if url.userinfo:
        raise BadUrl("must not carry a user name or a password")
    if url.port is not None and not 0 < url.port < 65536:
        raise BadUrl("names a port that does not exist")
    return url


@cache
def trusting_context() -> ssl.SSLContext:
    """Return the process's TLS context, which trusts certifi's authorities: loading them takes tens of
    milliseconds.
    """
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class PublicHttp:
    """Sends requests to public hosts.

    ``timeout_s``: longest wait for each part of an answer. ``is_allowed`` decides which addresses may be
    connected to; ``resolve`` turns a host name into addresses.
    """

    timeout_s: float = 10.0
    is_allowed: Callable[[Address], bool] = is_public
    resolve: Resolve = system_resolve
    ssl_context: ssl.SSLContext = field(default_factory=trusting_context)

    @asynccontextmanager
    async def request(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: Content | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request to a URL that ``checked_url`` returned; yield the answer, its body not yet read.

        Content in parts is first asked for once there is a connection; ``headers`` then say its length.
        Raises ``NotPublic``, ``httpx.HTTPError`` or ``OSError``.
        """
        async with AsyncExitStack() as stack:
            unreachable: httpx.TransportError | None = None
            for address in await self._addresses(url):
                asked = self._ask(address, method, url, headers, content)
                try:
                    response = await stack.enter_async_context(asked)
                    break
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    unreachable = error
            else:
                assert unreachable is not None
                raise unreachable
            yield response

    async def _addresses(self, url: httpx.URL) -> tuple[Address, ...]:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            addresses = await self.resolve(url.raw_host.decode("ascii"), port)
        except (OSError, ValueError):
            addresses = ()
        # One error for both, so that nobody can ask us which names our network knows.
        if not addresses or not all(self.is_allowed(address) for address in addresses):
            raise NotPublic
        return addresses

    @asynccontextmanager
    async def _ask(
        self,
        address: Address,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        content: Content | None,
    ) -> AsyncIterator[httpx.Response]:
        # A client per request: a kept connection would serve the next host under this host's certificate.
        client = httpx.AsyncClient(
            verify=self.ssl_context,
            trust_env=False,
            timeout=httpx.Timeout(self.timeout_s, connect=min(CONNECT_TIMEOUT_S, self.timeout_s)),
        )
        async with (
            client,
            client.stream(
                method,
                url.copy_with(host=str(address)),
                headers={"Host": url.netloc.decode("ascii"), "User-Agent": "wan-serve", **headers},
                content=content,
                # Also what the certificate must name.
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            ) as response,
        ):
            yield response
