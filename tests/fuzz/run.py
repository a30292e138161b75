"""Fuzz a reader: ``python -m tests.fuzz.run TARGET [--minutes 10] [--seed 0]``, or all of them with ``all``.

Right files and the kept ones are mutated: bytes, lines, values of a kind that another reader tripped over. An input
that the reader does not foresee is kept in ``tests/fuzz/seeds/TARGET`` and replayed by the tests from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import sys
import time
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS, Target, Unforeseen, try_target

SEEDS = Path(__file__).parent / "seeds"
SLOW_SECONDS = 5.0
PIECES = (
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"--5", "²".encode(), b"9" * 5000, b"0x1p3"),
    *(
        b"[" * 300 + b"]" * 300,
        b'{"a":' * 300,
        b"- " * 2000,
        b"&a [*a]",
        b"<<: *a",
        b"!!python/object:os.system x",
    ),
    *(
        "\u2028".encode(),
        "\u0085".encode(),
        b"\xef\xbb\xbf",
        b"\x00",
        b"\x1b[2J",
        b"\xed\xa0\x80",
        b'"\\ud800"',
    ),
    *(
        b"\xff\xfe",
        "caf\xe9".encode("latin-1"),
        b"a" * 100_000,
        b"\r",
        b"\r\n",
        b"\t",
        b'"',
        b"'",
        b",",
        b":",
        b"%",
    ),
    *(
        b"2021-13-45",
        b"0001-01-01",
        b"12:30:45",
        b"1_000",
        b"0b11",
        b"~",
        b"@",
        b"?",
        b"| ",
        b"{}",
        b"[]",
        b'""',
    ),
    *(
        b"../../x",
        b"/etc/passwd",
        b"C:\\x",
        b"${oc.env:HOME}",
        b"${a}",
        b"file_name",
        b"_id",
        b"\n---\n",
        b"\n+++\n",
    ),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        10**400,
        "",
        " ",
        "²",
        "a\u2028b",
        "\x00",
        "x" * 1000,
        [],
        {},
        [[]],
        {"a": None},
    ),
    *([1, "a"], {"": ""}, float("nan"), "../x", "\udfff"),
)


_ELEMENT = re.compile(rb"(<[^<>]{1,300}>|/\w+|\d+ \d+ (?:obj|R)|\\[a-z]+)")


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """``data`` changed in one to four places."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(MUTATIONS)(rng, data, others)
    return data


def _byte(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    if not data:
        return bytes([rng.randrange(256)])
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def _cut(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.randint(0, max(1, len(data) // 3)) :]


def _insert(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.choice(PIECES) + data[place + rng.choice((0, 0, 1, 4)) :]


def _repeat(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    return b"\n".join([*lines[:place], lines[place], *lines[place:]])


def _splice(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _value(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """One value of a JSON text, or of one of its lines, replaced by another kind of value."""
    lines = data.split(b"\n") if rng.random() < 0.5 else [data]
    number = rng.randrange(len(lines))
    try:
        changed = _replaced(rng, json.loads(lines[number]))
        lines[number] = json.dumps(changed, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return data
    return b"\n".join(lines)


def _replaced(rng: random.Random, value: Any) -> Any:
    if rng.random() < 0.2:
        return rng.choice(VALUES)
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        kept = {name: each for name, each in value.items() if name != key or rng.random() < 0.9}
        return {**kept, key: _replaced(rng, value[key])} if rng.random() < 0.9 else kept
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        return [*value[:place], _replaced(rng, value[place]), *value[place + 1 :]]
    return rng.choice(VALUES)


def _elements(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """A tag or a PDF's object changed for another, left out or nested."""
    pieces = _ELEMENT.split(data)
    if len(pieces) < 3:
        return data
    place = rng.randrange(1, len(pieces), 2)
    other = pieces[rng.randrange(1, len(pieces), 2)]
    pieces[place] = rng.choice((other, b"", pieces[place] * rng.choice((2, 2000)), other + pieces[place]))
    return b"".join(pieces)


def _encode(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    if rng.random() < 0.8:
        return data
    return data.decode("utf-8", "replace").encode(
        rng.choice(("utf-16", "utf-8-sig", "latin-1", "cp1252")), "replace"
    )


def _packed(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One file of a zip archive changed, or left out, or twice: what a document of an office program is."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, OSError, EOFError):
        return data
    if not entries:
        return data
    place = rng.randrange(len(entries))
    name, content = entries[place]
    changed = (name, rng.choice(MUTATIONS[:-1])(rng, content, [each for _, each in entries]))
    entries[place : place + 1] = rng.choice(([changed],) * 6 + ([], [changed, changed]))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings(action="ignore"):
        for each in entries:
            archive.writestr(*each)
    return stream.getvalue()


MUTATIONS = (_byte, _cut, _insert, _repeat, _splice, _value, _encode, _elements, _packed)


def kept_seeds(name: str) -> list[bytes]:
    folder = SEEDS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def fuzz(name: str, target: Target, minutes: float, seed: int) -> int:
    """Returns how many inputs were not foreseen; at most one of each kind is kept."""
    rng = random.Random(f"{name} {seed}")
    corpus = [*target.seeds, *kept_seeds(name)]
    ends, outcomes, kinds = time.monotonic() + 60 * minutes, Counter[str](), set[str]()
    while time.monotonic() < ends:
        data = mutate(rng, rng.choice(corpus), corpus)
        started = time.monotonic()
        try:
            outcomes[try_target(target, data)] += 1
            if time.monotonic() - started > SLOW_SECONDS:
                raise Unforeseen(f"slow: {time.monotonic() - started:.1f} s")
        except Unforeseen as error:
            outcomes["unforeseen"] += 1
            kind = str(error).partition(":")[0]
            if kind not in kinds:
                kinds.add(kind)
                _keep(name, data, error)
    sys.stdout.write(f"{name}: {minutes:g} minutes, {outcomes.total():,} inputs: {dict(outcomes)}\n")
    return outcomes["unforeseen"]


def _keep(name: str, data: bytes, error: Unforeseen) -> None:
    path = SEEDS / name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    sys.stdout.write(f"{name}: {path.name}: {error}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = list(TARGETS) if options.target == "all" else [options.target]
    sys.exit(sum(fuzz(name, TARGETS[name], options.minutes, options.seed) for name in names) > 0)


if __name__ == "__main__":
    main()
