"""Pairs from every source, and what is wrong with the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from assets_pkg.config.sections.image_text import PairSettings
from assets_pkg.image_text.assets import load_pairs
from assets_pkg.image_text.errors import PairError
from assets_pkg.image_text.pairs import source_digest, write_pairs
from storage.artifacts import ImageTextPairs

COLOURS = {"red": (255, 0, 0), "deep sea": (10, 20, 90), "sand": (220, 200, 150)}


def settings(source: str | Path, limit: int | None = None) -> PairSettings:
    return PairSettings(pairs=str(source), num_pairs_limit=limit)


def read(source: str | Path, folder: Path, limit: int | None = None) -> ImageTextPairs:
    folder.mkdir()
    write_pairs(settings(source, limit), folder)
    return ImageTextPairs(folder, "image_text_pairs", "1")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, rgb in COLOURS.items():
        Image.new("RGB", (20, 10), rgb).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f" {name} \n", "utf-8")
    return folder


@pytest.mark.slow
def test_the_colours_are_the_swatches_of_color_perception_bench(tmp_path: Path) -> None:
    pairs = load_pairs(read("colours://xkcd", tmp_path / "out"))
    assert len(pairs) == 949
    first = pairs[0].open()
    assert first.size == (244, 244)
    assert first.getpixel((100, 100)) == pairs[0].rgb
    assert pairs[0].text == pairs[0].pair_id == "cloudy blue"


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        read("colours://xkcd", tmp_path / name, 30)
    assert (tmp_path / "a" / "pairs.parquet").read_bytes() == (tmp_path / "b" / "pairs.parquet").read_bytes()


def test_a_folder_gives_its_images_and_the_texts_beside_them(pictures: Path, tmp_path: Path) -> None:
    pairs = load_pairs(read(pictures, tmp_path / "out"))
    assert [(pair.pair_id, pair.text, pair.rgb) for pair in pairs] == [
        ("deep sea.png", "deep sea", None),
        ("red.png", "red", None),
        ("sand.png", "sand", None),
    ]
    assert pairs[1].open().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_gives_its_rows(kind: str, pictures: Path, tmp_path: Path) -> None:
    rows = [{"id": name[0], "text": f"colour, {name}", "image": f"pictures/{name}.png"} for name in COLOURS]
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [mark.join(rows[0]), *(mark.join([r["id"], f'"{r["text"]}"', r["image"]]) for r in rows)]
        path.write_text("\n".join(lines))
    pairs = load_pairs(read(path, tmp_path / "out", 2))
    assert [(pair.pair_id, pair.text) for pair in pairs] == [("r", "colour, red"), ("d", "colour, deep sea")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_texts_may_hold_other_line_ends_and_files_a_byte_order_mark(
    kind: str, pictures: Path, tmp_path: Path
) -> None:
    text = "one\u2028two\u0085three"
    row = {"text": text, "image": "pictures/red.png"}
    path = tmp_path / f"table.{kind}"
    lines = [json.dumps(row | {"id": n}, ensure_ascii=False) for n in "ab"]
    content = f'text,image,id\n"{text}",pictures/red.png,a\n"{text}\nx",pictures/red.png,b\n'
    path.write_text("\n".join(lines) if kind == "jsonl" else content, "utf-8-sig")
    pairs = load_pairs(read(path, tmp_path / "out"))
    assert [pair.text for pair in pairs] == [text, text if kind == "jsonl" else f"{text}\nx"]


def test_a_changed_image_changes_the_digest(pictures: Path) -> None:
    before = source_digest(str(pictures))
    Image.new("RGB", (20, 10), (1, 2, 3)).save(pictures / "red.png")
    assert source_digest(str(pictures)) != before


class TestWrong:
    @pytest.mark.parametrize("source", ["colours://other", "/nowhere"])
    def test_no_source(self, source: str, tmp_path: Path) -> None:
        with pytest.raises(PairError, match="must be colours://xkcd, a folder"):
            read(source, tmp_path / "out")

    def test_no_text(self, pictures: Path, tmp_path: Path) -> None:
        (pictures / "red.txt").unlink()
        with pytest.raises(PairError, match=r"red\.png: has no text beside it: write it into red\.txt"):
            read(pictures, tmp_path / "out")

    def test_empty_text(self, pictures: Path, tmp_path: Path) -> None:
        (pictures / "red.txt").write_text(" \n")
        with pytest.raises(PairError, match=r"red\.png: its text is empty"):
            read(pictures, tmp_path / "out")

    def test_broken_image(self, pictures: Path, tmp_path: Path) -> None:
        image = pictures / "red.png"
        image.write_bytes(image.read_bytes()[:40])
        with pytest.raises(PairError, match=r"red\.png: (the image is broken|not an image)"):
            read(pictures, tmp_path / "out")

    def test_missing_image_or_column(self, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_text("text,image\nred,nowhere.png\n")
        with pytest.raises(PairError, match=r"image 'nowhere\.png': no such file"):
            read(table, tmp_path / "out")
        table.write_text("text,picture\nred,x.png\n")
        with pytest.raises(PairError, match="row 1: has no image"):
            read(table, tmp_path / "out2")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", b"text,image\nk\xf6ln,x.png\n", r"t\.csv:2: not UTF-8 \(byte 0xf6"),
            ("t.csv", b"text,image\nred,x.png,more\n", r"t\.csv:2: has more cells than"),
            ("t.csv", b'text,image\n"' + b"x" * 140_000 + b'",a\n', r"t\.csv:[12]: not readable as \.csv"),
            ("t.jsonl", b'{"text": "k\xf6ln"}', r"t\.jsonl:1: not UTF-8 \(byte 0xf6"),
            ("t.jsonl", b"[1]", "row 1: must be an object"),
            ("t.jsonl", b'{"text": ["a"], "image": "x.png"}', "row 1: text: must be a text or a number"),
            ("t.jsonl", b"[" * 100_000, r"t\.jsonl:1: .*nested more than 100 deep"),
            ("t.csv", b"text,image\nred," + b"x" * 5000 + b"\n", "image 'x+': File name too long"),
            ("t.parquet", b"PAR1", r"t\.parquet: not a Parquet file"),
        ],
    )
    def test_a_table_that_cannot_be_read(
        self, name: str, content: bytes, message: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PairError, match=message):
            read(tmp_path / name, tmp_path / "out")

    def test_doubled_id(self, pictures: Path, tmp_path: Path) -> None:
        table = tmp_path / "t.jsonl"
        row = json.dumps({"id": "x", "text": "red", "image": "pictures/red.png"})
        table.write_text(f"{row}\n{row}\n")
        with pytest.raises(PairError, match="'x' is the id of two pairs"):
            read(table, tmp_path / "out")

    def test_too_few(self, tmp_path: Path) -> None:
        with pytest.raises(PairError, match="1 pairs: at least two are needed"):
            read("colours://xkcd", tmp_path / "out", 1)
