"""The profile: the recipe's defaults, overrides, and errors that name key, value and range."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets_pkg.config import profile as profile_module
from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.recipe_names import ALIASES, WITHOUT_COUNTERPART
from assets_pkg.config.sections.prep import MiningSettings, SplitSettings
from storage.digests import digest_json


def test_default_holds_the_recipes_important_defaults() -> None:
    profile = load_profile("default")
    assert profile.sdg.qa_generation_model == "nvidia/nemotron-3-nano-30b-a3b"
    assert profile.sdg.embedding_model == "nvidia/llama-3.2-nv-embedqa-1b-v2"
    assert profile.model.base_model == "nvidia/llama-nemotron-embed-1b-v2"
    assert (profile.model.query_prefix, profile.model.passage_prefix) == ("query: ", "passage: ")
    assert profile.prep.quality_threshold == 7.0
    assert (profile.prep.train_ratio, profile.prep.val_ratio, profile.prep.test_ratio) == (0.8, 0.0, 0.2)
    assert (profile.prep.hard_negatives_to_mine, profile.prep.hard_neg_margin) == (5, 0.95)
    assert profile.prep.mining_batch_size == 128
    assert (profile.passages.sentences_per_chunk, profile.passages.max_chunk_tokens) == (5, "model")
    assert (profile.finetune.num_epochs, profile.finetune.global_batch_size) == (3, 128)
    assert (profile.finetune.local_batch_size, profile.finetune.learning_rate) == (4, 1e-5)
    assert (profile.finetune.temperature, profile.finetune.train_n_passages) == (0.02, 5)
    assert profile.eval.k_values == [1, 5, 10, 100]
    assert (profile.eval.eval_base, profile.eval.eval_finetuned, profile.eval.eval_nim) == (True, True, False)
    assert profile.export.attn_implementation == "eager"
    assert profile.export.export_to_trt is False
    assert profile.deploy.nim_image == "nvcr.io/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1.10.1"
    assert profile.deploy.container_name == "nemotron-embed-nim"
    assert profile.deploy.host_port == 8000


def test_the_passages_of_the_laptop_profiles_are_cut_as_ever() -> None:
    before = digest_json({"sentences_per_chunk": 5})
    for name in ("laptop", "laptop_adapter", "demo"):
        assert load_profile(name).passages.digest() == before
    assert load_profile("default").passages.digest() != before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prep.train_ratio=1.4", ["prep.train_ratio", "1.4", "less than or equal to 1"]),
        ("train_ratio=0.5", ["train_ratio + val_ratio + test_ratio = 0.7", "must be 1"]),
        ("tempertaure=0.1", ["'tempertaure'", "did you mean 'temperature'"]),
        ("finetune.epochs=1", ["'finetune.epochs'", "no such setting"]),
        ("num_epochs=few", ["finetune.num_epochs", "'few'", "integer"]),
        (
            "attn_implementation=eager",
            ["ambiguous", "model.attn_implementation", "export.attn_implementation"],
        ),
        ("train_n_passages=9", ["prep.hard_negatives_to_mine = 5", ">= finetune.train_n_passages - 1 = 8"]),
        ("gate.metric=NDCG@7", ["gate.metric", "NDCG@7", "NDCG@10"]),
        ("temperature", ["'temperature'", "key=value"]),
        ("corpus_dir=...", ["corpus_dir = '...'", "not readable as YAML", "quotes"]),
        ("eval.k_values=[1", ["eval.k_values = '[1'", "not readable as YAML"]),
        (
            "milvus_collection=my-wiki",
            ["reindex.milvus_collection", "'my-wiki'", "letters, digits and underscores"],
        ),
        (
            "milvus_collection=2wiki",
            ["reindex.milvus_collection", "'2wiki'", "a letter or an underscore, then"],
        ),
        (f"milvus_collection={'w' * 201}", ["reindex.milvus_collection", "at most 200"]),
    ],
)
def test_a_bad_override_names_key_value_and_what_is_allowed(override: str, words: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("default", [override])
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_key_in_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("finetune: {learning_rat: 0.1}")
    with pytest.raises(ProfileError, match=r"finetune\.learning_rat = 0\.1: no such setting"):
        load_profile(str(path))


def test_a_profile_that_extends_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(f"extends: {path}")
    with pytest.raises(ProfileError, match="extends itself"):
        load_profile(str(path))


def test_an_own_file_needs_only_what_differs_and_may_interpolate(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("artifact_root: /data/out\ncorpus: {corpus_dir: '${artifact_root}/docs'}")
    profile = load_profile(str(path))
    assert profile.corpus.corpus_dir == "/data/out/docs"
    assert profile.finetune == load_profile("default").finetune


def test_a_bare_key_belongs_to_the_stage_whose_command_is_run() -> None:
    profile = load_profile("laptop", ["attn_implementation=sdpa"], section="export")
    assert profile.export.attn_implementation == "sdpa"
    assert profile.model.attn_implementation == "auto"


@pytest.mark.parametrize(
    ("override", "section", "settings"),
    [
        ("trt_max_seq_len=256", "export", {"export.trt_max_seq": 256}),
        ("trt_max_seq_length=256", "export", {"export.trt_max_seq": 256}),
        ("max_length=128", "eval", {"model.query_max_length": 128, "model.passage_max_length": 128}),
        ("passage_max_length=128", "prep", {"model.passage_max_length": 128}),
        ("attn_implementation=sdpa", "finetune", {"model.attn_implementation": "sdpa"}),
        ("batch_size=4", "eval", {"eval.eval_batch_size": 4}),
        ("embed_model=x/y", "sdg", {"sdg.embedding_model": "x/y"}),
        ("lr_decay_style=linear", "finetune", {"finetune.lr_scheduler": "linear"}),
        ("nim_model=a/b", "deploy", {"deploy.served_model_name": "a/b"}),
        ("backend=nim", "deploy", {"deploy.backend": "docker", "deploy.server": "nim"}),
        ("resume=if_possible", "sdg", {"sdg.resume": "always"}),
        ("query_prefix=query:", "finetune", {"model.query_prefix": "query:"}),
        ("passage_prefix=passage: ", "eval", {"model.passage_prefix": "passage: "}),
        ("nvidia_api_base_url=null", "sdg", {"sdg.base_url": "https://integrate.api.nvidia.com/v1"}),
        ("attn_implementation=null", "finetune", {"model.attn_implementation": "auto"}),
        ("max_parallel_requests_for_gen=null", "sdg", {"sdg.max_parallel_requests_for_gen": 4}),
        ("file_extensions=.txt,.md", "sdg", {"corpus.file_extensions": [".txt", ".md"]}),
        ("file_extensions=.txt,", "sdg", {"corpus.file_extensions": [".txt", ""]}),
        ("k_values=1,10", "eval", {"eval.k_values": [1, 10]}),
        ("k_values=[1,10]", "eval", {"eval.k_values": [1, 10]}),
        ("gpus=1", "deploy", {"deploy.gpus": "1"}),
        ("gpus=device=0", "deploy", {"deploy.gpus": "device=0"}),
        ("gpus=all", "deploy", {"deploy.gpus": "all"}),
        ("shm_size=16gb", "deploy", {"deploy.shm_size": "16g"}),
        ("shm_size=2gb", "deploy", {"deploy.shm_size": "2g"}),
        ("shm_size=16g", "deploy", {"deploy.shm_size": "16g"}),
    ],
)
def test_the_recipes_names_and_values_mean_the_settings_here(
    override: str, section: str, settings: dict[str, object]
) -> None:
    profile = load_profile("default", [override], section=section)
    for name, value in settings.items():
        group, _, key = name.partition(".")
        assert getattr(getattr(profile, group), key) == value


def test_one_entry_of_a_setting_is_named_without_its_section() -> None:
    counts = ["num_pairs=4", "query_counts.multi_hop=3", "query_counts.structural=1"]
    assert load_profile("default", counts).sdg.query_type_counts() == {
        "multi_hop": 3,
        "structural": 1,
        "contextual": 0,
    }


RECIPE_KEYS = """
artifact_root corpus_id corpus_dir output_dir file_extensions nvidia_api_key nvidia_api_base_url
min_text_length sentences_per_chunk num_sections num_files max_artifacts_per_type num_pairs query_counts
min_hops max_hops reasoning_counts min_complexity similarity_threshold dataset_name buffer_size resume
multi_doc bundle_size bundle_strategy max_docs_per_bundle multi_doc_manifest artifact_extraction_model
artifact_extraction_provider qa_generation_model qa_generation_provider quality_judge_model
quality_judge_provider embed_model embed_provider max_parallel_requests_for_gen artifact_path preview
log_level sdg_input_path train_input_file artifact_recipe base_model trust_remote_code quality_threshold
train_ratio val_ratio test_ratio conversion_seed max_pos_docs use_group_id_in_eval split_strategy
groups_json attn_implementation hard_negatives_to_mine hard_neg_margin mining_batch_size query_max_length
passage_max_length query_prefix passage_prefix train_data_path checkpoint_dir num_epochs global_batch_size
local_batch_size learning_rate lr_warmup_steps lr_decay_style weight_decay optimizer_backend
flash_adamw_master_weight_bits train_n_passages pooling l2_normalize temperature checkpoint_every_steps
val_every_steps auto_scale_checkpoint_intervals finetuned_model_path eval_data_path k_values batch_size
max_length corpus_chunk_size normalize eval_base eval_finetuned eval_nim nim_url nim_model nim_batch_size
nim_timeout embedding_api_backend nim_invalid_embedding_retries nim_embedding_dimension nim_metric_tolerance
nim_metric_low_k_tolerance fail_on_nim_metric_drift enabled model_path pooling_mode use_dimension_arg
quant_cfg calibration_batch_size onnx_export_path opset export_dtype export_to_trt trt_model_path
override_layernorm_precision_to_fp32 override_layers_to_fp32 profiling_verbosity trt_min_batch trt_opt_batch
trt_max_batch trt_min_seq_len trt_opt_seq_len trt_max_seq_len backend nim_image vllm_image container_name
model_dir model_path_env use_onnx expected_model_fingerprint container_model_path container_cache_path
vllm_container_cache_path host_port container_port gpus shm_size max_seq_len pipeline_id detach
remove_on_exit health_check_timeout health_check_interval ngc_api_key_env forward_ngc_api_key
allow_unhealthy_detached
"""
"""Every key of the recipe's stage configurations and their classes, at NVIDIA-NeMo/Nemotron e27b371."""


def test_every_key_of_the_recipe_is_a_setting_or_says_what_to_set() -> None:
    groups = [
        getattr(load_profile("default"), name) for name in Profile.model_fields if name != "artifact_root"
    ]
    known = {"artifact_root", *ALIASES, *WITHOUT_COUNTERPART}.union(
        *(type(each).model_fields for each in groups)
    )
    assert [key for key in RECIPE_KEYS.split() if key not in known] == []


def test_a_name_of_the_recipe_that_has_no_counterpart_says_what_to_set() -> None:
    with pytest.raises(ProfileError, match=r"'output_dir' of the recipe: .*artifact_root"):
        load_profile("default", ["output_dir=there"], section="prep")


def test_settings_that_only_change_how_a_stage_runs_do_not_change_its_digest() -> None:
    before, after = load_profile("laptop"), load_profile("laptop", ["mining_batch_size=7"])
    assert before.prep.part(MiningSettings).digest() == after.prep.part(MiningSettings).digest()
    after = load_profile("laptop", ["hard_neg_margin=0.9"])
    assert before.prep.part(MiningSettings).digest() != after.prep.part(MiningSettings).digest()
    assert before.prep.part(SplitSettings).digest() == after.prep.part(SplitSettings).digest()


def test_settings_of_milvus_decide_nothing_where_it_is_not_used() -> None:
    def digest(*overrides: str) -> str:
        return load_profile("laptop", overrides).reindex.digest()

    assert digest("milvus_collection=wiki", "milvus_uri=http://there:19530") == digest()
    assert digest("store=milvus", "milvus_collection=wiki") != digest("store=milvus")
    assert digest("store=milvus", "milvus_token_env=KEY") == digest("store=milvus")


@pytest.mark.parametrize("name", [*ALIASES, *WITHOUT_COUNTERPART])
def test_a_key_of_a_compute_target_is_no_name_of_the_recipe(name: str) -> None:
    assert load_profile("laptop", [f"run.env.{name}=x"]).compute.overrides == {name: "x"}


def test_the_former_place_of_load_profile_is_known_and_names_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="from assets_pkg import load_profile"):
        from assets_pkg.config.profile import load_profile as former
    assert former is load_profile
    assert not hasattr(profile_module, "no_such_name")
