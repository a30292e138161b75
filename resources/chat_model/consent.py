"""Whether documents may go to a chat endpoint: to this machine always, to other hosts only with the user's consent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resources.chat_model.errors import ConsentError
from resources.endpoints import endpoint_host, is_allowed


@dataclass(frozen=True)
class Sent:
    """What a session sends, in words (``what`` has ``{count}``), and the settings that keep it here."""

    what: str
    noun: str
    url_setting: str
    otherwise: str


DOCUMENTS = Sent("the text of {count} documents", "text", "sdg.base_url", "sdg.generator=offline")


def check_consent(
    base_url: str,
    allow_corpus_egress: bool,
    approved_endpoints: Sequence[str],
    documents: int,
    sent: Sent = DOCUMENTS,
) -> None:
    """Refuse to send ``documents`` (or what else ``sent`` says) without the user's consent.

    Raises:
        ConsentError: it names the host, the number of documents and how to allow it.
    """
    if is_allowed(base_url, allow_corpus_egress, approved_endpoints):
        return
    host, _ = endpoint_host(base_url)
    raise ConsentError(
        f"{sent.what.format(count=documents)} would be sent to {host}, which is not allowed yet; nothing was sent. "
        f"If your data policy permits it: sdg.approved_endpoints=[{host}] allows this host, "
        f"sdg.allow_corpus_egress=true any host. To keep the {sent.noun} here: "
        f"{sent.url_setting}=http://127.0.0.1:PORT/v1, or {sent.otherwise}"
    )
