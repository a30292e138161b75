import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import EncoderError, SentenceTransformerEncoder, evenly_mixed
from resources.machine.accelerator import find_accelerator

WORDS = "the list dict of a module returns its value when path or file is opened for reading".split()  # noqa: SIM905


def make_encoder(folder: Path, **settings) -> SentenceTransformerEncoder:
    settings = {"query_max_length": 16, "passage_max_length": 40, **settings}
    return SentenceTransformerEncoder(folder, "digest", find_accelerator("cpu"), EncoderConfig(**settings))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = random.Random(1)
    return [
        "",
        *(" ".join(draw.choices(WORDS, k=draw.randint(1, 70))) for _ in range(150)),
        "  ",
        "unknown ☃",
    ]


@pytest.mark.parametrize("role", ["query", "passage"])
def test_same_vectors_as_plain_sentence_transformers(tiny_model, texts, role, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("resources.encoders.sentence_transformer.TOKENISE_BLOCK", 64)
    with make_encoder(tiny_model, query_prefix="name: ", passage_prefix="file: ", batch_size=8) as encoder:
        seen = []
        got = encoder.embed(texts, role, lambda done, total, unit, **_: seen.append((done, total, unit)))
        assert encoder.dimensions == got.shape[1] == 32

    plain = SentenceTransformer(str(tiny_model), device="cpu")
    plain.max_seq_length = {"query": 16, "passage": 40}[role]
    prefix = {"query": "name: ", "passage": "file: "}[role]
    want = plain.encode([prefix + text for text in texts], normalize_embeddings=True)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert seen[-1] == (len(texts), len(texts), "texts")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_model_without_modules_json_is_mean_pooled(tiny_model, texts):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(tiny_model.parent / "hf"), device="cpu")
    plain.max_seq_length = 40
    got = make_encoder(tiny_model.parent / "hf").embed(texts[:20], "passage")
    np.testing.assert_allclose(got, plain.encode(texts[:20], normalize_embeddings=True), atol=1e-5)


def test_bf16_stays_close_to_fp32_and_has_its_own_identity(tiny_model, texts):
    full, half = make_encoder(tiny_model), make_encoder(tiny_model, precision="bf16")
    a, b = full.embed(texts, "passage"), half.embed(texts, "passage")
    assert b.dtype == np.float32
    assert (a * b).sum(1).min() > 0.995
    assert full.identity("passage") != half.identity("passage")


def test_identity_follows_what_decides_a_vector_only(tiny_model):
    base = make_encoder(tiny_model, query_prefix="a", passage_prefix="a")
    assert base.identity("query") != base.identity("passage")  # their maximum lengths differ
    same = make_encoder(tiny_model, query_prefix="a", batch_size=2, attn_implementation="eager")
    assert base.identity("query") == same.identity("query")
    assert base.identity("query") != make_encoder(tiny_model, query_prefix="b").identity("query")
    assert base.identity("query") != make_encoder(tiny_model, query_max_length=17).identity("query")


def test_loads_again_after_close(tiny_model):
    encoder = make_encoder(tiny_model)
    before = encoder.embed(["the list"], "query")
    encoder.close()
    np.testing.assert_array_equal(encoder.embed(["the list"], "query"), before)


def test_no_texts_give_no_vectors(tiny_model):
    assert make_encoder(tiny_model).embed([], "query").shape == (0, 32)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(EncoderError, match=r"nowhere: no such model folder"):
        make_encoder(tmp_path / "nowhere").embed(["a"], "query")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(tiny_model, tmp_path, name):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / name).unlink()
    with pytest.raises(EncoderError, match=rf"broken.*{name}"):
        make_encoder(folder).embed(["a"], "query")


def test_damaged_weights_are_an_error_that_names_the_folder(tiny_model, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EncoderError, match=r"broken: sentence-transformers cannot load this model"):
        make_encoder(folder).embed(["a"], "query")


def test_weights_that_give_no_numbers_are_an_error(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    next(value for name, value in weights.items() if name.endswith("word_embeddings.weight")).fill_(
        float("nan")
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"2 of 2 vectors that are not finite"):
        make_encoder(folder).embed(["a", "b"], "query")


def test_more_tokens_than_positions_is_an_error(tiny_model):
    with pytest.raises(EncoderError, match=r"model\.passage_max_length = 513.*512"):
        make_encoder(tiny_model, passage_max_length=513).embed(["a"], "query")


def test_batches_are_mixed_evenly() -> None:
    assert evenly_mixed(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert (evenly_mixed(0), evenly_mixed(1)) == ([], [0])
    for count in (2, 7, 100, 257):
        assert sorted(evenly_mixed(count)) == list(range(count))
    order = evenly_mixed(257)
    for part in range(8, 257):
        seen = order[:part]
        assert abs(sum(seen) / part - 128) < 20, part
