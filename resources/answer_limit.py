"""The size that the answer of a remote service may have, counted as it is read and after it is decompressed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2

from storage.errors import RetuneError

ANSWER_LIMIT_BYTES = 64 * 2**20
"""About three times the largest answer that is asked for: 256 vectors of 4,096 numbers, written out with 20 digits."""


class AnswerTooLargeError(RetuneError):
    """An answer is larger than what was asked for can be; it was not read to its end."""


class AnswerLimit:
    """Called with an answer whose body is not read yet: replaces the body by one that ends at the limit.

    httpx2 decompresses in pieces of a mebibyte, so that no more than one of them is held beyond the limit.

    Raises:
        AnswerTooLargeError: the announced size, or what is read, is more than ``limit`` bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __call__(self, response: httpx2.Response) -> None:
        host = response.request.url.netloc.decode("ascii")
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._limit:
            raise too_large(host, self._limit)
        encoded = httpx2.Response(
            response.status_code, headers=response.headers, stream=response.stream, request=response.request
        )
        response.stream = _Bounded(encoded, host, self._limit)
        response.headers.pop("content-encoding", None)

    async def asynchronous(self, response: httpx2.Response) -> None:
        """The same for an asynchronous client."""
        self(response)


class _Bounded(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The decompressed body of an answer, up to a limit."""

    def __init__(self, encoded: httpx2.Response, host: str, limit: int) -> None:
        self._encoded = encoded
        self._host = host
        self._limit = limit
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self._encoded.iter_bytes():
            yield self._counted(part)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._encoded.aiter_bytes():
            yield self._counted(part)

    def close(self) -> None:
        self._encoded.close()

    async def aclose(self) -> None:
        await self._encoded.aclose()

    def _counted(self, part: bytes) -> bytes:
        self._size += len(part)
        if self._size > self._limit:
            raise too_large(self._host, self._limit)
        return part


def too_large(host: str, limit: int) -> AnswerTooLargeError:
    size = f"{limit / 2**20:g} MiB"
    return AnswerTooLargeError(
        f"the answer of {host} is larger than {size}, more than any answer that was asked for: check that the address "
        "is that of the service meant"
    )
