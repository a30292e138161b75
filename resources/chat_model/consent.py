"""Whether text may go to an endpoint: to this machine always, to other hosts only with the user's consent."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from resources.chat_model.errors import ConsentError


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


def is_allowed(base_url: str, allow_corpus_egress: bool, approved_endpoints: Sequence[str]) -> bool:
    """Whether text may be sent to ``base_url``. An approved endpoint is ``host`` or ``host:port``."""
    host, port = endpoint_host(base_url)
    approved = {name.strip().lower() for name in approved_endpoints}
    return is_loopback(host) or allow_corpus_egress or host in approved or f"{host}:{port}" in approved


def check_consent(
    base_url: str, allow_corpus_egress: bool, approved_endpoints: Sequence[str], documents: int
) -> None:
    """Refuse to send ``documents`` without the user's consent.

    Raises:
        ConsentError: it names the host, the number of documents and how to allow it.
    """
    if is_allowed(base_url, allow_corpus_egress, approved_endpoints):
        return
    host, _ = endpoint_host(base_url)
    raise ConsentError(
        f"the text of {documents} documents would be sent to {host}, which is not allowed yet; nothing was sent. "
        f"If your data policy permits it: approved_endpoints=[{host}] allows this host, "
        "allow_corpus_egress=true any host. To keep the text here: base_url=http://127.0.0.1:PORT/v1, or "
        "generator=offline"
    )
