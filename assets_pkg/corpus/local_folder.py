"""A folder of text files as documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError, FileRead, Found, Item, Skipped
from assets_pkg.corpus.file_digests import DIGESTS, FileDigests
from assets_pkg.corpus.file_listing import leads_out, list_files
from assets_pkg.corpus.file_reading import (
    UNREADABLE,
    Contents,
    FileReader,
    digest_of,
    printable,
    versioned,
)
from assets_pkg.corpus.front_matter import FrontMatterError, split_front_matter
from assets_pkg.corpus.metadata import (
    TITLE,
    FieldValueError,
    as_json,
    field_name,
    normalize_fields,
    usable_fields,
)
from assets_pkg.corpus.metadata_file import find_metadata_file, read_metadata_file
from assets_pkg.corpus.readers.file_document import FileDocument, UnreadPart
from assets_pkg.corpus.readers.registry import EXTENSIONS, extension_of, kind_by_name
from assets_pkg.corpus.segmentation import title_of
from storage.artifacts import Document
from storage.digests import digest_tree

FRONT_MATTER = "front matter"
LINK_OUT = "link out of the corpus"
NOT_READ = "not read"

_WITH_FRONT_MATTER = frozenset({"text"})
_UNREADABLE_TYPES = {
    ".doc": "save it as .docx",
    ".ppt": "save it as .pptx",
    ".pages": "export it as .docx",
    ".key": "export it as .pptx",
    ".numbers": "export it as .xlsx",
    ".zip": "unpack it into the folder",
    ".tar": "unpack it into the folder",
    ".gz": "unpack it into the folder",
    ".7z": "unpack it into the folder",
}


class LocalFolder:
    """All files below a folder that have one of the extensions, or can be read; names that begin with a dot are left
    out. If the settings name one file, that file alone, whatever its extension.

    Links to folders are followed, each real folder once, so that a loop ends. A link that leads out of the folder is
    skipped: whoever may put files into it must not be able to publish others. ``num_files`` takes the first files in
    the order of their names.

    Args:
        settings: folder, extensions, limits and metadata fields.
        cache: a folder for the digests of files (:class:`FileDigests`) and for the text of those that are no plain
            text (:class:`FileReader`), so that unchanged ones are not read again; with None all are.
        links_within: the folder that links may lead to, if it is a larger one (a cache that holds the files).
        known_as: the name of the folder, if it is a copy.

    Raises:
        CorpusError: no such folder or file, two metadata files, or one that is a link out of the folder.
    """

    def __init__(
        self,
        settings: CorpusSettings,
        cache: Path | None = None,
        links_within: Path | None = None,
        known_as: str = "",
    ) -> None:
        self._root = Path(settings.corpus_dir).expanduser()
        self._settings = settings
        self._cache = cache
        self._known_as = known_as or str(self._root.absolute())
        if not self._root.exists():
            raise CorpusError(f"corpus.corpus_dir = {settings.corpus_dir!r}: no such folder")
        self._only = None if self._root.is_dir() else self._root.name
        self._root = self._root if self._only is None else self._root.parent
        self._within = (links_within or self._root).resolve()
        self._metadata_file = find_metadata_file(self._root) if self._only is None else None
        if self._metadata_file and leads_out(self._metadata_file, self._within):
            raise CorpusError(f"{self._metadata_file}: a link out of the corpus: put the file itself there")
        selected = settings.metadata_fields
        self._columns = None if selected is None else {field_name(name) for name in selected}
        self._links_out: set[str] = set()
        self._others: list[str] = []
        self._figures: dict[str, int] = {}
        self._all_names = self._list()
        self._names = self._all_names[: settings.num_files]
        self._unmatched: list[Skipped] = []

    def __len__(self) -> int:
        return len(self._names)

    def describe_empty(self) -> str:
        chosen = self._settings.file_extensions
        if chosen is None:
            return "no file of a type that can be read"
        extensions = ", ".join(extension or "none" for extension in chosen)
        return f"no file with one of the extensions {extensions} (corpus.file_extensions)"

    def read(self) -> Iterator[FileRead]:
        """Every file with its documents, or skipped with a reason, and the digest of its bytes."""
        fields: dict[str, dict[str, Any]] = {}
        if self._metadata_file:
            fields, self._unmatched = read_metadata_file(self._metadata_file, self._all_names)
        inside = (name for name in self._names if name not in self._links_out)
        with (
            FileReader(self._root, self._settings, self._cache, self._known_as) as reader,
            FileDigests(self._root, self._digest_cache) as digests,
        ):
            read = reader.read_all(inside, digests)
            for name in self._names:
                if name in self._links_out:
                    yield FileRead(printable(name), UNREADABLE, [_link_out(name)])
                    continue
                _, digest, contents = next(read)
                yield FileRead(printable(name), digest, self._items(name, contents, fields.get(name, {})))
            for _ in read:  # what it does after the last file
                pass
            self._figures = {"files_converted": reader.converted, "files_unchanged": reader.unchanged}

    def left_out(self) -> list[Skipped]:
        """Rows of the metadata file that are about no document."""
        return self._unmatched

    def other_files(self) -> dict[str, int]:
        return dict(Counter(map(extension_of, self._others)).most_common())

    def files_by_type(self) -> dict[str, int]:
        return dict(Counter(kind_by_name(name) or "text" for name in self._names).most_common())

    def not_read(self) -> Iterator[Skipped]:
        """The files that are no documents, each with the reason."""
        for name in sorted(self._others):
            extension = extension_of(name)
            if extension in EXTENSIONS:
                detail = "its extension is not in corpus.file_extensions"
            else:
                what = f"no reader for {extension or 'files without extension'}"
                advice = _UNREADABLE_TYPES.get(extension)
                detail = f"{what}: {advice}" if advice else what
            yield Skipped(printable(name), NOT_READ, detail)

    def figures(self) -> dict[str, int]:
        return self._figures

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        return self._fingerprint(digests, FileDigests(self._root))

    def current_fingerprint(self) -> str:
        """Digest of the paths and bytes of the files now."""
        with FileDigests(self._root, self._digest_cache) as files:
            return self._fingerprint(
                [(printable(name), self._digest_now(files, name)) for name in self._names], files
            )

    def _fingerprint(self, digests: list[tuple[str, str]], files: FileDigests) -> str:
        """Of the documents' digests and of the metadata file's, if there is one."""
        path = self._metadata_file
        metadata = [(path.name, digest_of(files, path.name))] if path else []
        return digest_tree([*digests, *metadata])

    @property
    def _digest_cache(self) -> Path | None:
        return self._cache / DIGESTS if self._cache else None

    def _digest_now(self, files: FileDigests, name: str) -> str:
        return UNREADABLE if name in self._links_out else versioned(name, digest_of(files, name))

    def _items(self, name: str, contents: Contents, row: Mapping[Any, Any]) -> Iterator[Item]:
        if isinstance(contents, Skipped):
            yield contents
            return
        empty = True
        for item in contents:
            empty = False
            doc_id = f"{name}#{item.part}" if item.part else name
            if isinstance(item, UnreadPart):
                yield Skipped(doc_id, item.kind, item.detail)
            else:
                yield self._item(name, doc_id, item, row)
        if empty:
            yield Skipped(name, "empty", "it holds no text")

    def _item(self, name: str, doc_id: str, read: FileDocument, row: Mapping[Any, Any]) -> Item:
        found = self._with_fields(name, doc_id, read, row)
        return self._check_length(found, is_row=bool(read.part)) if isinstance(found, Found) else found

    def _with_fields(self, name: str, doc_id: str, read: FileDocument, row: Mapping[Any, Any]) -> Item:
        """The document without its front matter. Fields of the metadata file override those of the front matter, and
        these override what a file of another type says of itself."""
        columns = self._columns
        text, front_matter = read.text, {}
        if kind_by_name(name) in _WITH_FRONT_MATTER:
            try:
                front_matter, text = split_front_matter(text)
                front_matter = normalize_fields(front_matter, doc_id, columns)
            except (FrontMatterError, FieldValueError) as error:
                return Skipped(doc_id, FRONT_MATTER, str(error))
        of_file, lost = usable_fields(read.metadata, columns)
        fields = {**of_file, **front_matter, **self._fields_of(row, doc_id, columns)}
        own_title = fields.pop(TITLE, None)
        title = str(own_title) if own_title else read.title or title_of(text, Path(name).stem)
        document = Document(doc_id, title, text, as_json(fields))
        return Found(document, read.pages, [*read.warnings, *lost], list(of_file))

    def _fields_of(self, row: Mapping[Any, Any], name: str, columns: set[str] | None) -> dict[str, Any]:
        if not row:
            return {}
        where = f"{self._metadata_file}, {name}"
        try:
            return normalize_fields(row, where, columns)
        except FieldValueError as error:
            raise CorpusError(f"{where}: {error}") from error

    def _check_length(self, found: Found, is_row: bool) -> Item:
        """The document unless it is too short; a row of a table is as long as it is meant to be."""
        document = found.document
        length, least = len(document.text.strip()), self._settings.min_text_length
        if length >= max(0 if is_row else least, 1):
            return found
        detail = f"{length} characters, corpus.min_text_length is {least}"
        return Skipped(document.doc_id, "too short", detail)

    def _list(self) -> list[str]:
        if self._only is not None:
            return [self._only]
        extensions = self._settings.extensions(EXTENSIONS)
        metadata_file = self._metadata_file and self._metadata_file.name
        names: list[str] = []
        for name, is_link_out, is_folder in list_files(self._root, self._within):
            if name == metadata_file:
                continue
            if extension_of(name) not in extensions and not is_folder:
                self._others.append(name)
                continue
            names.append(name)
            if is_link_out:
                self._links_out.add(name)
        return sorted(names)


def _link_out(name: str) -> Skipped:
    detail = "put the files themselves there, or name their own folder in corpus_dir"
    return Skipped(printable(name), LINK_OUT, detail)
