"""The error of settings, apart from the profile itself, which takes longer to load than a command's help may take."""

from __future__ import annotations

from storage.errors import RetuneError


class ProfileError(RetuneError, ValueError):
    """A profile or an override that cannot be used; the message names key, value and what is allowed."""
