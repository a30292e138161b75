"""Where an HTTP endpoint is, and whether text may go there: to this machine always, to other hosts with consent."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit


def endpoint_host(base_url: str) -> tuple[str, int | None]:
    """Host and port of an endpoint.

    Raises:
        ValueError: not a plain http(s) URL. A user name, query or backslash is refused: such parts are where
            two URL readers disagree about the host, and where keys end up in logs.
    """
    problem = "must be a plain http:// or https:// URL without user name, query or fragment"
    if any(char.isspace() or char == "\\" or not char.isprintable() for char in base_url):
        raise ValueError(f"base_url: {problem}")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"base_url: {problem} ({error})") from None
    plain = parts.scheme in ("http", "https") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if not plain or not parts.hostname:
        raise ValueError(f"base_url: {problem}")
    return parts.hostname, port


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_allowed(base_url: str, allow_egress: bool, approved_endpoints: Sequence[str]) -> bool:
    """Whether text may be sent to ``base_url``. An approved endpoint is ``host`` or ``host:port``."""
    host, port = endpoint_host(base_url)
    approved = {name.strip().lower() for name in approved_endpoints}
    return is_loopback(host) or allow_egress or host in approved or f"{host}:{port}" in approved


def is_this_machine(host: str) -> bool:
    """Whether all addresses of ``host`` belong to this machine: loopback, a network interface, or "every address"
    (0.0.0.0), at which a server that listens there is reached."""
    if is_loopback(host):
        return True
    import psutil

    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    interfaces = psutil.net_if_addrs().values()
    own = {entry.address.partition("%")[0] for entries in interfaces for entry in entries}
    return all(
        address in own or is_loopback(address) or ipaddress.ip_address(address).is_unspecified
        for address in (each.partition("%")[0] for each in found)
    )
