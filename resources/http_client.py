"""The one place where HTTP clients are made: no text leaves this machine without consent, by proxy or redirect.

A client is made for one endpoint and asks no other: an address of another host and a redirect are not followed.
An endpoint on this machine is asked directly: nothing in the environment (``HTTP_PROXY`` and its like) applies. Another
host needs the user's consent; on the way to it a proxy of the environment is used, as networks that let nothing else
out demand it, and so are ``NO_PROXY`` and ``SSL_CERT_FILE``.
No answer is read beyond a limit (`resources.answer_limit`).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, build_opener

from resources.endpoints import endpoint_host, is_allowed, is_loopback, is_this_machine
from storage.errors import RetuneError

if TYPE_CHECKING:
    import httpx2


THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class CertificateError(RetuneError):
    """The certificate by which a server is to be known cannot be read."""


class HostNotAllowedError(RetuneError):
    """A request would leave this machine without the user's consent; nothing was sent."""


def http_client(
    base_url: str,
    *,
    timeout: float,
    allow_egress: bool = False,
    approved_endpoints: Sequence[str] = (),
    transport: httpx2.BaseTransport | None = None,
    answer_limit: int | None = None,
) -> httpx2.Client:
    """A client of the endpoint at ``base_url``, which is on this machine or consented to.

    Args:
        timeout: seconds for each phase of a request.
        transport: replaces the network in tests.
        answer_limit: the most bytes of an answer, decompressed; by default ``ANSWER_LIMIT_BYTES``.

    Raises:
        HostNotAllowedError: the user has not consented to this host. A request to another host raises it, too; and
            one with a larger answer `AnswerTooLargeError`.
    """
    import httpx2

    from resources.answer_limit import ANSWER_LIMIT_BYTES, AnswerLimit

    _require_consent(base_url, allow_egress, approved_endpoints)
    limit = AnswerLimit(answer_limit or ANSWER_LIMIT_BYTES)
    hooks = {"request": [_same_endpoint(base_url)], "response": [limit]}
    options = _options(base_url)
    return httpx2.Client(timeout=timeout, transport=transport, event_hooks=hooks, **options)


def async_http_client(
    base_url: str,
    *,
    timeout: httpx2.Timeout,
    limits: httpx2.Limits,
    allow_egress: bool = False,
    approved_endpoints: Sequence[str] = (),
    answer_limit: int | None = None,
) -> httpx2.AsyncClient:
    """As `http_client`, for many requests at once."""
    import httpx2

    from resources.answer_limit import ANSWER_LIMIT_BYTES, AnswerLimit

    _require_consent(base_url, allow_egress, approved_endpoints)
    check = _same_endpoint(base_url)

    async def check_request(request: httpx2.Request) -> None:
        check(request)

    limit = AnswerLimit(answer_limit or ANSWER_LIMIT_BYTES)
    hooks = {"request": [check_request], "response": [limit.asynchronous]}
    return httpx2.AsyncClient(timeout=timeout, limits=limits, event_hooks=hooks, **_options(base_url))


def own_server_client(
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    answer_limit: int | None = None,
    certificate: str | None = None,
) -> httpx2.Client:
    """A client of a server that this project runs on this machine, at any of its addresses; never through a proxy.

    Args:
        certificate: the file of the server's own certificate, for HTTPS: it proves the server whatever names it has,
            which are those that other machines use.

    Raises:
        HostNotAllowedError: ``url`` is not on this machine. A request to another host raises it, too; and one with an
            answer of more than ``answer_limit`` bytes `AnswerTooLargeError`.
    """
    import httpx2

    from resources.answer_limit import ANSWER_LIMIT_BYTES, AnswerLimit

    host, _ = endpoint_host(url)
    if not is_this_machine(host):
        raise HostNotAllowedError(
            f"{host} is not this machine: a deployed server is only asked where it runs; nothing was sent. Run the "
            "command there, or deploy here with deploy.host=127.0.0.1"
        )
    return httpx2.Client(
        base_url=url,
        timeout=timeout,
        headers=headers,
        event_hooks={
            "request": [_same_endpoint(url)],
            "response": [AnswerLimit(answer_limit or ANSWER_LIMIT_BYTES)],
        },
        trust_env=False,
        follow_redirects=False,
        verify=_trusted(url) if certificate is None else _pinned(certificate),
    )


def _trusted(url: str) -> ssl.SSLContext | bool:
    """The authorities of this system; none for a server that is asked without TLS, since to read them takes
    some 25 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if urlsplit(url).scheme == "http" else True


def _pinned(certificate: str) -> ssl.SSLContext:
    """Trust in this certificate alone, whoever signed it and whatever its names.

    Raises:
        CertificateError: the file cannot be read as one.
    """
    try:
        context = ssl.create_default_context(cafile=certificate)
    except OSError as error:  # SSLError is one
        raise CertificateError(
            f"{certificate} is no certificate in PEM: {error.strerror or error}"
        ) from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def opener(address: str) -> OpenerDirector:
    """urllib's client under the same rules, for an address that is itself a secret: httpx2 logs every address. That
    the user named it is the consent."""
    direct = [ProxyHandler({})] if is_loopback(urlsplit(address).hostname or "") else []
    return build_opener(_NoRedirects(), *direct)


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """A redirect is an answer like another error."""


def bypass_proxies_on_this_machine(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to ``NO_PROXY``, for the clients that libraries make themselves (Docker's, Ray's, those of
    object stores), here and in the processes that are started from here."""
    # Lower case is preferred by urllib, and with it by requests and botocore, where both are set.
    given = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    hosts = [each.strip() for each in given.split(",") if each.strip()]
    if "*" not in hosts:
        hosts += [each for each in THIS_MACHINE if each not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def _require_consent(base_url: str, allow_egress: bool, approved_endpoints: Sequence[str]) -> None:
    if not is_allowed(base_url, allow_egress, approved_endpoints):
        host, _ = endpoint_host(base_url)
        raise HostNotAllowedError(
            f"a request to {host} is not allowed yet; nothing was sent. If your data policy permits it: "
            f"approved_endpoints=[{host}]"
        )


def _options(base_url: str) -> dict[str, Any]:
    host, _ = endpoint_host(base_url)
    here = is_loopback(host)  # a proxy on the way to another host may be asked with TLS
    return {
        "base_url": base_url,
        "trust_env": not here,
        "follow_redirects": False,
        "verify": _trusted(base_url) if here else True,
    }


def _same_endpoint(base_url: str) -> Callable[[httpx2.Request], None]:
    """A check of each request's address: a path such as ``@other.example/`` would make another host of it."""
    import httpx2

    wanted = httpx2.URL(base_url).origin

    def check(request: httpx2.Request) -> None:
        if request.url.origin != wanted:
            raise HostNotAllowedError(
                f"a request for {base_url} would go to {request.url.host}: check the paths of its entry in "
                "models.yaml; nothing was sent"
            )

    return check
