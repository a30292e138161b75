"""Whether documents may go to a chat endpoint: to this machine always, to other hosts only with the user's consent."""

from __future__ import annotations

from collections.abc import Sequence

from resources.chat_model.errors import ConsentError
from resources.endpoints import endpoint_host, is_allowed


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
