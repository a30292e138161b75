"""An encoder behind HTTP: Retune's own server, a NIM, vLLM, Infinity, or a hosted service."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from resources.encoders.base import Role
from resources.encoders.dialects import Call, Service, plan_calls, read_vectors
from resources.encoders.items import Input, as_items
from resources.encoders.service_calls import AnswerError, RetryPolicy, has_direction, json_value, post
from resources.endpoints import endpoint_host, is_allowed, is_loopback
from resources.http_client import http_client
from resources.models.entry import Modality, ModelEntry
from resources.models.files import facts_digest
from storage.digests import digest_json
from storage.errors import RetuneError
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import httpx2

    from resources.encoders.base import Vectors

TIMEOUT_S = 300.0
PROBE_TIMEOUT_S = 2.0
RETRIES = RetryPolicy(
    statuses=frozenset({408, 425, 429, 500, 502, 503, 504, 524}),
    first_s=0.5,
    longest_s=60.0,
    tries=5,
    network_errors=True,
    honour_retry_after=True,
)
ERROR_CHARACTERS = 300


class ServiceError(RetuneError, RuntimeError):
    """A service did not give vectors; the message names it, its answer and what to do."""


class EgressError(ServiceError):
    """Texts or images would leave this machine without the user's consent."""


class HttpEncoder:
    """Asks the service at ``entry.base_url`` in ``entry.dialect``. Vectors are scaled to length 1 here.

    Nothing is sent to another machine unless ``approved_endpoints`` names it or ``allow_egress`` is true. The
    API key is read from the variable that the entry names, at the time of the request. ``transport`` replaces
    the network in tests.
    """

    def __init__(
        self,
        name: str,
        entry: ModelEntry,
        *,
        allow_egress: bool = False,
        approved_endpoints: Sequence[str] = (),
        transport: httpx2.BaseTransport | None = None,
    ):
        if entry.base_url is None:
            raise ServiceError(f"{name}: its entry has no base_url")
        self.name = name
        self.entry = entry
        self._url = entry.base_url
        self._service = Service(entry, entry.hub_id or name)
        self._allow_egress = allow_egress
        self._approved = tuple(approved_endpoints)
        self._allowed = is_allowed(self._url, allow_egress, approved_endpoints)
        self._transport = transport
        self._client: httpx2.Client | None = None
        self._size: int | None = entry.dimensions
        self._served: str | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(self.entry.modalities)

    @property
    def dimensions(self) -> int:
        size = self._size or self.embed(["a"], "passage").shape[1]
        self._size = size
        return size

    def identity(self, role: Role) -> str:
        """Digest of service, model, facts and role; and of the weights, where the server reports it."""
        if self._served is None:
            self._served = self._served_digest()
        shape = [self.entry.dialect, self.entry.task, self.entry.prompts.prefix(role), role]
        return digest_json([self._url, self._service.model, facts_digest(self.entry), *shape, self._served])

    def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`.

        Raises:
            EgressError: these items may not leave this machine.
            ServiceError: no answer after several tries, a refusal, or an answer without the vectors asked for.
        """
        import numpy as np

        checked = as_items(items, self.modalities, self.name)
        self._check_consent(len(checked))
        vectors: Vectors | None = None
        done = 0
        for call in plan_calls(self._service, checked, role):
            if done and self.entry.rate_limit_delay:
                time.sleep(self.entry.rate_limit_delay)
            rows = self._ask(call)
            if vectors is None:
                vectors = np.empty((len(checked), rows.shape[1]), dtype=np.float32)
            vectors[call.rows] = rows
            done += len(call.rows)
            progress(done, len(checked), "items")
        return np.empty((0, self._size or 0), dtype=np.float32) if vectors is None else vectors

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, call: Call) -> Any:
        """Vectors of one request: float32 [len(call.rows), d]."""
        import numpy as np

        answer = self._post(call)
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                rows = np.array(read_vectors(answer, len(call.rows)), dtype=np.float32)
        except (AnswerError, ValueError, TypeError) as error:
            raise ServiceError(f"{self.name} at {self._url}{call.path}: {error}") from error
        if rows.ndim != 2 or not has_direction(rows).all():
            raise ServiceError(f"{self.name} at {self._url}: gave a vector that is zero or not finite")
        if self.entry.dimensions not in (None, rows.shape[1]):
            raise ServiceError(
                f"{self.name} at {self._url}: gave vectors of {rows.shape[1]} numbers, and the registry has "
                f"{self.entry.dimensions}: another model is served there, or the entry is wrong"
            )
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _post(self, call: Call) -> Any:
        import httpx2

        from resources.answer_limit import AnswerTooLargeError

        try:
            reply = post(self._open(), self._url + call.path, call.body, RETRIES, self._headers())
        except AnswerTooLargeError as error:
            problem = str(error)
        except httpx2.RequestError as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            if reply.status_code == 200:
                return json_value(reply)
            problem = f"HTTP {reply.status_code}: {' '.join(reply.text.split())[:ERROR_CHARACTERS]}"
        raise ServiceError(f"{self.name} at {self._url}{call.path} gave no vectors: {problem}")

    def _headers(self) -> dict[str, str]:
        name = self.entry.api_key_env
        if name is None:
            return {}
        key = os.environ.get(name, "").strip()
        if not key:
            raise ServiceError(f"{self.name}: {name} is not set, the key for {self._url}")
        return {"Authorization": f"Bearer {key}"}

    def _open(self) -> httpx2.Client:
        if self._client is None:
            self._client = http_client(
                self._url,
                timeout=TIMEOUT_S,
                allow_egress=self._allow_egress,
                approved_endpoints=self._approved,
                transport=self._transport,
            )
        return self._client

    def _served_digest(self) -> str:
        """The digest that a Retune server reports of its model; empty for other servers."""
        import httpx2

        from resources.answer_limit import AnswerTooLargeError

        if not self._allowed:
            return ""
        try:
            reply = self._open().get(f"{self._url.removesuffix('/v1')}/v1/metadata", timeout=PROBE_TIMEOUT_S)
        except (httpx2.RequestError, AnswerTooLargeError):
            return ""
        answer = json_value(reply) if reply.status_code == 200 else None
        return str(cast("dict[str, Any]", answer).get("modelDigest", "")) if isinstance(answer, dict) else ""

    def _check_consent(self, count: int) -> None:
        if self._allowed:
            return
        host, _ = endpoint_host(self._url)
        raise EgressError(
            f"{count} texts or images would be sent to {host} for {self.name}, which is not allowed yet; nothing was "
            f"sent. If your data policy permits it: approved_endpoints=[{host}]"
        )


def server_problem(name: str, entry: ModelEntry) -> str | None:
    """Why the server on this machine that ``entry`` names cannot be used, as text; None if one answers.

    Other hosts get no request: they are assumed to be up.
    """
    import httpx2

    url = entry.base_url or ""
    if not is_loopback(endpoint_host(url)[0]):
        return None
    try:
        with (
            http_client(url, timeout=PROBE_TIMEOUT_S) as client,
            client.stream("GET", f"{url.removesuffix('/v1')}/health"),  # whatever it is, it is not read
        ):
            return None
    except httpx2.RequestError:
        return f"no server answers at {url}: start it (retune serve --model {name}), or download the weights"
