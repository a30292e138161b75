"""The adapters on tiny checkpoints of true architectures, against the libraries' own forward passes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resources.encoders.cached_items import CachedItems
from resources.encoders.dual_tower import DualTowerEncoder
from resources.encoders.factory import UnavailableError, look_up, open_encoder
from resources.encoders.items import Item, ItemError
from resources.encoders.onnx import OnnxEncoder
from resources.encoders.qwen3_vl import Qwen3VLEncoder, fit
from resources.encoders.registered_text import RegisteredTextEncoder
from resources.encoders.sentence_transformer import EncoderError
from resources.machine.accelerator import Accelerator
from resources.models.entry import ImageLimits, ModelEntry
from resources.models.registry import Registry
from storage.embedding_cache import EmbeddingCache
from tests.models import tiny

RED = Image.new("RGB", (50, 40), (255, 0, 0))
BLUE = Image.new("RGB", (200, 100), (0, 0, 255))
CLOSE = 1e-5


def distance(first: Any, second: Any) -> float:
    return float((1 - (np.asarray(first) * np.asarray(second)).sum(axis=-1)).max())


def unit(rows: Any) -> Any:
    rows = rows.detach().numpy()
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class TestQwen3VL:
    @pytest.fixture(scope="class")
    def encoder(self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator) -> Qwen3VLEncoder:
        return Qwen3VLEncoder(zoo / "qwen3-vl", entries["qwen3-vl"], "digest", cpu)

    def test_a_mixed_batch_equals_one_by_one(self, encoder: Qwen3VLEncoder) -> None:
        items = [
            "dark blue sea",
            Item(images=(RED,)),
            Item(text="a photo", images=(BLUE,)),
            Item(text="two", images=(RED, BLUE)),
            "",
        ]
        together = encoder.embed(items, "query")
        assert (together.shape, together.dtype) == ((5, 64), np.float32)
        alone = np.vstack([encoder.embed([item], "query") for item in items])
        assert distance(together, alone) < CLOSE
        assert np.linalg.matrix_rank(together) == 5

    def test_equals_the_model_run_by_hand_on_the_documented_conversation(
        self, encoder: Qwen3VLEncoder, zoo: Path
    ) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen3VLModel
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        model = Qwen3VLModel.from_pretrained(zoo / "qwen3-vl").eval()
        tokenizer = AutoTokenizer.from_pretrained(zoo / "qwen3-vl")
        processor = Qwen2VLImageProcessorPil.from_pretrained(zoo / "qwen3-vl")
        pixels = processor([BLUE.resize((160, 64))], do_resize=False, return_tensors="pt")
        assert pixels["image_grid_thw"].tolist() == [[1, 4, 10]]
        text = (
            "<|im_start|>system\nFind the colour.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            + "<|image_pad|>" * 10
            + "<|vision_end|>dark blue sea<|im_end|>\n<|im_start|>assistant\n"
        )
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        types = (inputs["input_ids"] == model.config.image_token_id).int()
        with torch.inference_mode():
            hidden = model(**inputs, **pixels, mm_token_type_ids=types).last_hidden_state
        item = Item(text="dark blue sea", images=(BLUE,), instruction="Find the colour")
        assert distance(encoder.embed([item], "query"), unit(hidden[:, -1])) < CLOSE

    def test_is_the_text_model_when_there_is_no_image(self, encoder: Qwen3VLEncoder, zoo: Path) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen3VLModel

        model = Qwen3VLModel.from_pretrained(zoo / "qwen3-vl").eval()
        tokenizer = AutoTokenizer.from_pretrained(zoo / "qwen3-vl")
        text = (
            "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\nred<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        assert distance(encoder.embed(["red"], "passage"), unit(hidden[:, -1])) < CLOSE

    def test_a_long_text_is_cut_and_keeps_the_end_of_the_conversation(self, encoder: Qwen3VLEncoder) -> None:
        observed = encoder.observe(["red " * 400, "red"], "query")
        length = observed.tokens.shape[1]
        assert encoder.entry.max_tokens is not None
        assert encoder.entry.max_tokens - 8 <= length <= encoder.entry.max_tokens
        ends = [
            row[mask == 1][-11:].tolist() for row, mask in zip(observed.tokens, observed.mask, strict=True)
        ]
        assert ends[0] == ends[1]

    def test_images_that_do_not_fit_are_refused_and_named(self, encoder: Qwen3VLEncoder) -> None:
        many = Item(images=(BLUE,) * 30)
        with pytest.raises(ItemError, match="item 1: its images need 300 tokens") as error:
            encoder.embed(["red", many], "query")
        assert error.value.index == 1

    def test_special_tokens_in_a_text_are_text(self, encoder: Qwen3VLEncoder) -> None:
        observed = encoder.observe(["red <|im_end|>\n<|im_start|>assistant\n<|image_pad|>"], "query")
        special = tiny.QWEN_SPECIAL.index("<|im_end|>")
        assert (observed.tokens[0] == special).sum() == 2
        assert np.isfinite(observed.vectors).all()

    def test_an_image_is_brought_to_the_limits(self) -> None:
        limits = ImageLimits(min_pixels=4096, max_pixels=1_843_200, factor=32)
        for size in [(10, 10), (4000, 3000), (64, 64), (1000, 31)]:
            width, height = fit(Image.new("RGB", size), limits).size
            assert width % 32 == height % 32 == 0
            assert 4096 <= width * height <= 1_843_200


class TestDualTower:
    @pytest.mark.parametrize("name", ["clip", "siglip"])
    def test_equals_the_models_own_forward_pass(
        self, name: str, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        texts = ["dark blue sea", "red"]
        model = AutoModel.from_pretrained(zoo / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(zoo / name)
        padding = {"padding": True} if name == "clip" else {"padding": "max_length", "max_length": 16}
        inputs = tokenizer(texts, truncation=True, return_tensors="pt", **padding)
        if name == "siglip":
            inputs.pop("attention_mask", None)
        pixels = AutoImageProcessor.from_pretrained(zoo / name, backend="pil")(
            [RED, BLUE], return_tensors="pt"
        )
        with torch.inference_mode():
            expected = model(**inputs, **pixels)
        encoder = DualTowerEncoder(zoo / name, entries[name], "digest", cpu)
        found = encoder.embed([texts[0], Item(images=(RED,)), texts[1], Item(images=(BLUE,))], "query")
        assert distance(found[[0, 2]], unit(expected.text_embeds)) < CLOSE
        assert distance(found[[1, 3]], unit(expected.image_embeds)) < CLOSE
        assert encoder.dimensions == 32

    def test_one_item_holds_a_text_or_one_image(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        encoder = DualTowerEncoder(zoo / "clip", entries["clip"], "digest", cpu)
        with pytest.raises(ItemError, match="item 1: clip does not embed text_image, only text, image"):
            encoder.embed(["a", Item(text="a", images=(RED,))], "query")
        with pytest.raises(ItemError, match="item 0: clip takes one image at a time, not 2"):
            encoder.embed([Item(images=(RED, BLUE))], "query")

    def test_long_texts_are_cut(self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator) -> None:
        encoder = DualTowerEncoder(zoo / "clip", entries["clip"], "digest", cpu)
        assert encoder.observe(["red " * 200], "query").tokens.shape == (1, 77)

    def test_siglip_2_reads_lower_case(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        encoder = DualTowerEncoder(zoo / "siglip", entries["siglip"], "digest", cpu)
        same = encoder.embed(["Dark BLUE", "dark blue"], "query")
        assert distance(same[:1], same[1:]) < CLOSE


class TestRegisteredText:
    def test_remote_code_of_a_stock_network_is_run_without_its_mask(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaModel

        encoder = RegisteredTextEncoder(zoo / "llama", entries["llama"], "digest", cpu)
        found = encoder.embed(["dark blue sea", "red"], "passage")
        config = LlamaConfig.from_pretrained(zoo / "llama", attn_implementation="eager")
        model = LlamaModel.from_pretrained(zoo / "llama", config=config).eval()
        tokenizer = AutoTokenizer.from_pretrained(zoo / "llama")
        for row, text in enumerate(["passage: dark blue sea", "passage: red"]):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            everything = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
            with torch.inference_mode():
                hidden = model(input_ids=ids, attention_mask=everything).last_hidden_state
            assert distance(found[row], unit(hidden.mean(dim=1))[0]) < CLOSE

    def test_equals_sentence_transformers_for_a_folder_with_modules(
        self, tmp_path: Path, cpu: Accelerator
    ) -> None:
        from sentence_transformers import SentenceTransformer

        folder = tiny.build_sentence_llama(tmp_path, pooling="lasttoken", padding_side="left", causal=True)
        entry = ModelEntry(adapter="sentence_transformer", folder="st", dtype="fp32")
        texts = ["dark blue sea", "red", "a person walks through a gate"]
        found = RegisteredTextEncoder(folder, entry, "digest", cpu).embed(texts, "query")
        expected = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
        assert distance(found, expected) < CLOSE

    def test_the_end_token_is_put_behind_every_text_and_survives_the_cut(
        self, tmp_path: Path, cpu: Accelerator
    ) -> None:
        folder = tiny.build_llama(tmp_path, model_type="llama_bidirec")
        entry = ModelEntry(
            adapter="sentence_transformer", folder="x", pooling="last", attention="causal", append_eos=True,
            padding_side="right", max_tokens=12,
        )  # fmt: skip
        observed = RegisteredTextEncoder(folder, entry, "d", cpu).observe(["red", "red " * 40], "query")
        assert observed.tokens.shape == (2, 12)
        assert observed.tokens[0][observed.mask[0] == 1][-1] == observed.tokens[1, -1] == 1

    def test_an_image_is_refused(self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator) -> None:
        encoder = RegisteredTextEncoder(zoo / "llama", entries["llama"], "digest", cpu)
        with pytest.raises(ItemError, match="llama does not embed image, only text"):
            encoder.embed([Item(images=(RED,))], "query")

    def test_unknown_pooling_of_remote_code_is_an_error(
        self, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
    ) -> None:
        entry = entries["llama"].model_copy(update={"pooling": "latent_attention"})
        with pytest.raises(EncoderError, match="the registry's pooling is 'latent_attention'"):
            RegisteredTextEncoder(zoo / "llama", entry, "digest", cpu).embed(["a"], "query")


def test_onnx_equals_the_model_it_was_exported_from(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from assets_pkg.export.onnx import OnnxExportSettings, export_onnx

    folder = tmp_path / "onnx"
    settings = OnnxExportSettings(max_length=16)
    export_onnx(tiny_model, folder, model_id="tiny", model_digest="0" * 16, settings=settings)
    texts = [
        "dark blue sea",
        "red",
        "a person walks through a gate and a dog runs over the hill again and again",
    ]
    found = OnnxEncoder(folder, "digest").embed(texts, "passage")
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.max_seq_length = 16
    assert distance(found, model.encode(texts, normalize_embeddings=True)) < CLOSE


def run_by_hand(folder: Path, texts: list[str]) -> Any:
    """One text at a time through tokenizers and onnxruntime, truncated by the tokenizer itself."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(16)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    wanted = {given.name for given in session.get_inputs()}
    rows = []
    for encoded in tokenizer.encode_batch([f"passage: {text}" for text in texts]):
        ids = np.array([encoded.ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows.append(session.run(["embeddings"], {name: feed[name] for name in wanted})[0][0])
    return np.stack(rows)


class TestOnnx:
    @pytest.fixture(scope="class")
    def folder(self, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from assets_pkg.export.onnx import OnnxExportSettings, export_onnx

        folder = tmp_path_factory.mktemp("export") / "onnx"
        settings = OnnxExportSettings(max_length=16, passage_prefix="passage: ")
        export_onnx(tiny_model, folder, model_id="tiny", model_digest="0" * 16, settings=settings)
        return folder

    @pytest.mark.slow
    def test_equals_the_graph_run_by_hand(self, folder: Path) -> None:
        """Texts of all lengths, empty and truncated ones too, however they are batched."""
        words = tiny.WORDS.split()
        texts = ["", "  ", "unknown ☃", *(" ".join(words[:length]) for length in range(1, len(words)))] * 40
        reported: list[int] = []
        encoder = OnnxEncoder(folder, "digest")
        found = encoder.embed(texts, "passage", lambda done, total, unit, **_: reported.append(done))
        assert found.dtype == np.float32
        distinct = len(texts) // 40
        np.testing.assert_allclose(found, np.tile(run_by_hand(folder, texts[:distinct]), (40, 1)), atol=1e-6)
        assert reported == [min(start, len(texts)) for start in range(1024, len(texts) + 1024, 1024)]

    def test_what_is_wrong_with_a_folder_is_one_of_our_errors(self, folder: Path, tmp_path: Path) -> None:
        broken = Path(shutil.copytree(folder, tmp_path / "broken"))
        (broken / "model.onnx").write_bytes(b"no graph")
        with pytest.raises(EncoderError, match=r"model\.onnx cannot be loaded"):
            OnnxEncoder(broken, "digest").embed(["red"], "query")
        (broken / "retune_model.json").unlink()
        with pytest.raises(EncoderError, match=r"retune_model\.json is missing"):
            OnnxEncoder(broken, "digest").embed(["red"], "query")


class TestOpen:
    @pytest.fixture
    def registry(self, entries: dict[str, ModelEntry]) -> Registry:
        missing = ModelEntry(adapter="dual_tower", folder="nowhere")
        return Registry(Path("models.yaml"), {**entries, "missing": missing})

    @pytest.mark.parametrize("name", ["qwen3-vl", "clip", "siglip", "llama"])
    def test_opens_every_adapter(self, name: str, registry: Registry, zoo: Path, cpu: Accelerator) -> None:
        found = look_up(registry, name, zoo)
        assert found.usable
        encoder = open_encoder(found, cpu)
        assert encoder.embed(["red"], "query").shape == (1, encoder.dimensions)
        assert encoder.identity("query") == open_encoder(found, cpu).identity("query")
        encoder.close()

    def test_a_missing_model_has_its_reason(self, registry: Registry, zoo: Path) -> None:
        found = look_up(registry, "missing", zoo)
        assert not found.usable
        with pytest.raises(UnavailableError, match=r"missing: no weights in .*nowhere"):
            open_encoder(found)


def test_a_cached_encoder_embeds_only_what_is_new(
    tmp_path: Path, zoo: Path, entries: dict[str, ModelEntry], cpu: Accelerator
) -> None:
    encoder = DualTowerEncoder(zoo / "clip", entries["clip"], "digest", cpu)
    items = ["red", Item(images=(RED,)), "red", Item(images=(Image.new("RGB", (50, 40), (255, 0, 0)),))]
    cached = CachedItems(encoder, EmbeddingCache(tmp_path))
    first = cached.embed(items, "query")
    assert (cached.hits, cached.misses) == (0, 2)
    again = CachedItems(encoder, EmbeddingCache(tmp_path))
    np.testing.assert_array_equal(again.embed([*items, "blue"], "query")[:4], first)
    assert (again.hits, again.misses) == (2, 1)
    assert distance(first, encoder.embed(items, "query")) < CLOSE
