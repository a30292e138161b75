"""Bytes as text, whatever the encoding."""

from __future__ import annotations

import codecs

from assets_pkg.corpus.readers.file_document import ReadError

SAMPLE_BYTES = 200_000
"""Of a file whose encoding is detected."""

ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("koi8_r", "koi8_u", "cp866", "shift_jis", "cp932", "euc_jp", "iso2022_jp", "gb18030", "big5", "euc_kr"),
)
"""Encodings that files on the web have (encoding.spec.whatwg.org), and that differ where text differs."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(data: bytes, declared: str = "") -> tuple[str, list[str]]:
    """The text with line ends as ``\\n``, and a warning where the encoding had to be detected.

    UTF-8, and UTF-16 and UTF-32 with a byte order mark; else the ``declared`` encoding, else the one that
    charset-normalizer finds.

    Raises:
        ReadError: it is no text in any of them.
    """
    encoding, warnings = encoding_of(data, declared)
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        text = data.decode(encoding, "replace")
        warnings.append(f"some bytes are not {encoding}: replaced by a sign")
    if "\0" in text:
        raise ReadError("binary", "it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n"), warnings


def encoding_of(data: bytes, declared: str = "") -> tuple[str, list[str]]:
    """The encoding as Python names it, and a warning where it had to be detected.

    Raises:
        ReadError: it is no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, []
    for encoding in filter(None, ("utf-8", declared)):
        try:
            data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        return encoding, []
    return _detected(data)


def _detected(data: bytes) -> tuple[str, list[str]]:
    from charset_normalizer import from_bytes

    sample = data[:SAMPLE_BYTES]
    if b"\0" in sample:
        raise ReadError("binary", "it holds zero bytes")
    found = from_bytes(sample, cp_isolation=list(ENCODINGS), preemptive_behaviour=False).best()
    if found is None:
        raise ReadError("unknown encoding", "it is not UTF-8, and no other encoding fits: save it as UTF-8")
    return found.encoding, [f"read as {found.encoding}, which was detected: save it as UTF-8 to be sure"]
