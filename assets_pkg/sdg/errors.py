"""The error of the offline generator."""

from __future__ import annotations

from storage.errors import RetuneError


class SdgError(RetuneError, ValueError):
    """No usable pairs could be generated; the message says why and what to do."""
