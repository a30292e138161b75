"""The one rule for values that are printed, recorded and passed on: none of them holds a password or key.

It judges the value, whatever the setting is called, so that it also holds for settings that are still to come.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from storage.errors import RetuneError

INSTEAD = (
    "Settings are printed, recorded and written into jobs: put the secret into the environment, and write its "
    "variable's name where one is asked for (api_key_env, milvus_token_env, secrets of a compute target)"
)
HIDDEN = "(not shown: it holds a secret)"

SECRET_NAME = re.compile(r"KEY(?!WORD|BOARD)|TOKEN(?!IZ)|SECRET|PASSWO?R?D|PASSPHRASE|WEBHOOK|_PWD$", re.I)
NAMES_A_FILE = re.compile(r"_(FILE|PATH|DIR)$", re.I)
LOGIN_SCHEMES = frozenset({"ssh", "git+ssh", "sftp", "docker", "hdfs", "abfs", "abfss", "wasb", "wasbs"})
"""Where the part before ``@`` is a login's or a container's name, and never a key."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40}):/{2,}")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
_LOGIN_WITHOUT_SCHEME = re.compile(r"[^\s/@:]+:[^\s/@]+@[\w.-]+(:\d{1,5})?(/\S*)?")
_KEY_PARAMETER = re.compile(
    r"token|secret|passw|signature|credential|(^|[-_.])((api|access|account|shared|sas)?key|auth|sig|pwd|pass|sas)"
    r"($|[-_.])",
    re.I,
)
_HOOK = re.compile(r"(incoming)?-?(web)?hooks?(b2)?", re.I)
_ASSIGNMENT = re.compile(r"(?<![\w.$])([A-Z][A-Z0-9_]*)\s*=\s*[\"']?(?=[^\s\"'$`=;&|)])")
_KEY = re.compile(
    r"\b(nvapi-[\w-]{12,}|hf_[A-Za-z0-9]{20,}|sk-([a-z0-9]+-){0,2}\w{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|(AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}|bot\d{6,}:[\w-]{30,})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""The forms of the keys of NVIDIA, Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS, Google and Telegram, of signed
tokens, and of private keys."""


class SecretValueError(RetuneError, ValueError):
    """A value that holds a secret; the message names where it is, never the value."""


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name usually holds a secret itself, rather than the path of a file."""
    return bool(SECRET_NAME.search(name)) and not NAMES_A_FILE.search(name)


def find_secret(text: str) -> str | None:
    """What kind of secret ``text`` holds, in words without the value; None if it holds none."""
    for match in _URL.finditer(text):
        found = _in_url(match[1].lower(), text[match.end() :])
        if found:
            return found
    if _LOGIN_WITHOUT_SCHEME.fullmatch(text.strip()):
        return "a user name and password before a host"
    if any(is_secret_name(match[1]) for match in _ASSIGNMENT.finditer(text)):
        return "a value for a variable that is named like a key"
    return "what looks like a key" if _KEY.search(text) else None


def shown(value: object) -> str:
    """``value`` as an error message quotes it, unless it holds a secret."""
    return HIDDEN if find_secret(str(value)) else repr(value)


def hide_secrets(message: str) -> str:
    """``message``, unless it quotes a secret."""
    return HIDDEN if find_secret(message) else message


def refuse_secrets(values: Any) -> Any:
    """``values`` as they are: texts, numbers, and lists and mappings of them at any depth.

    Raises:
        SecretValueError: one of the texts holds a secret.
    """
    for name, text in texts_in(values):
        found = find_secret(text)
        if found:
            raise SecretValueError(f"{name + ': ' if name else ''}holds {found}. {INSTEAD}")
    return values


def texts_in(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in ``value``, with its name (``section.key``); also the keys of mappings."""
    if isinstance(value, str | Path):
        yield name, str(value)
    elif isinstance(value, Mapping):
        for key, each in cast("Mapping[Any, Any]", value).items():
            yield name, str(key)
            yield from texts_in(each, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for each in cast("list[Any]", value):
            yield from texts_in(each, name)


def _in_url(scheme: str, text: str) -> str | None:
    """As `find_secret`, of a URL and what follows it: ``text`` is the part after the slashes."""
    url = re.split(r"\s", text, maxsplit=1)[0]
    address, _, query = re.sub(r"[?#]", "?", url).partition("?")
    authority = re.split(r"[/\\]", address, maxsplit=1)[0]
    login, at, _ = authority.rpartition("@")
    if at and (scheme not in LOGIN_SCHEMES or ":" in unquote(login)):
        return "a URL with a user name or password"
    if not at and "@" in url and not _HOST_AND_PORT.fullmatch(authority):
        return "a URL with a user name or password"  # which has a slash or a question mark in it
    if any(_is_key(parameter) for parameter in re.split(r"[&;?]", query)):
        return "a URL with a key among its parameters"
    return "the address of a webhook" if scheme in ("http", "https") and _is_webhook(address) else None


def _is_key(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return bool(value) and bool(_KEY_PARAMETER.search(unquote(name)))


def _is_webhook(address: str) -> bool:
    """Whether part of the host or of the path says so: whoever knows the rest of such an address may post there."""
    host, *path = address.rstrip("/").split("/")
    named = [*host.split("."), *path[:-1]]
    return bool(path) and any(_HOOK.fullmatch(each) for each in named)
