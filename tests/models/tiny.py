"""Tiny random checkpoints of true architectures, built offline in well under a second each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = (
    "red green blue dark light pale deep sky sea forest sand a photo of the colour an image person walks through "
    "gate dog runs over hill while sun sets behind old stone bridge query passage"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def byte_tokenizer(special: list[str], **names: Any) -> Any:
    """A byte-level BPE tokenizer trained on a few words; ``names`` are those of its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def build_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL with two text and two vision layers: 64 dimensions."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer(QWEN_SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    token = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    Qwen3VLModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=16, merge_size=2).save_pretrained(folder)
    return folder


def build_clip(folder: Path) -> Path:
    """CLIP: 32 dimensions, 32x32 images, 77 tokens."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = byte_tokenizer(
        special, bos_token=special[0], eos_token=special[1], pad_token=special[1], model_max_length=77
    )
    _frame(tokenizer, *special)
    eos = tokenizer.eos_token_id
    torch.manual_seed(1)
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 77, "eos_token_id": eos,
            "bos_token_id": tokenizer.bos_token_id, "pad_token_id": eos,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
        projection_dim=32,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def build_siglip(folder: Path) -> Path:
    """SigLIP: 32 dimensions, 32x32 images, 16 tokens, always padded to 16."""
    import torch
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = byte_tokenizer(["<pad>", "</s>"], eos_token="</s>", pad_token="<pad>", model_max_length=16)
    _frame(tokenizer, None, "</s>")
    torch.manual_seed(2)
    config = SiglipConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
    )  # fmt: skip
    SiglipModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def build_llama(folder: Path, *, model_type: str | None = None, **config_values: Any) -> Path:
    """A Llama decoder without sentence-transformers modules: 32 dimensions."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    tokenizer = byte_tokenizer(["<pad>", "</s>"], eos_token="</s>", pad_token="<pad>")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, **config_values,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if model_type is not None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": model_type}))
    return folder


def build_sentence_llama(folder: Path, *, pooling: str, padding_side: str, causal: bool) -> Path:
    """The Llama of `build_llama` as a sentence-transformers folder with modules of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    build_llama(folder / "hf", is_causal=causal)
    network = Transformer(str(folder / "hf"), max_seq_length=128)
    model = SentenceTransformer(modules=[network, Pooling(32, pooling), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "st"))
    path = folder / "st" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": padding_side}))
    return folder / "st"


def _frame(tokenizer: Any, first: str | None, last: str) -> None:
    """Put special tokens around every text."""
    from tokenizers.processors import TemplateProcessing

    names = [name for name in (first, last) if name]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*([first] if first else []), "$A", last]),
        pair=None,
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in names],
    )
