"""The names that NVIDIA's recipe has for settings: those that mean a setting here, and those that have no counterpart.

Source: the stage configurations of the recipe, ``src/nemotron/recipes/embed/stage*/config/`` of NVIDIA-NeMo/Nemotron.
"""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, tuple[str, ...]] = {
    "nvidia_api_base_url": ("sdg.base_url",),
    "embed_model": ("sdg.embedding_model",),
    "train_data_path": ("prep.train_input_file",),
    "lr_decay_style": ("finetune.lr_scheduler",),
    "batch_size": ("eval.eval_batch_size",),
    "max_length": ("model.query_max_length", "model.passage_max_length"),
    **{
        f"trt_{bound}_{name}": (f"export.trt_{bound}_seq",)
        for bound in ("min", "opt", "max")
        for name in ("seq_len", "seq_length")
    },
    "container_image": ("deploy.nim_image",),
    "nim_model": ("deploy.served_model_name",),
    "health_check_timeout": ("deploy.startup_timeout_s",),
}
"""The settings that a name of the recipe sets, in full."""

VALUES: Mapping[tuple[str, str | None], Mapping[str, str]] = {
    ("deploy.backend", "nim"): {"deploy.backend": "docker", "deploy.server": "nim"},
    ("sdg.resume", "if_possible"): {"sdg.resume": "always"},
    ("model.attn_implementation", None): {"model.attn_implementation": "auto"},
    ("corpus.file_extensions", None): {},
    ("sdg.base_url", None): {},
    ("sdg.max_parallel_requests_for_gen", None): {},
}
"""Values of the recipe that are others here: settings by full name; none where it means the default."""

_FOLDERS = "every stage writes below artifact_root: set that"
_NOTHING = "it decides nothing here: leave it out"
_MODULES = "a model is pooled and normalised as its own modules say (docs/models.md)"
_ENDPOINT = "one endpoint answers all requests: sdg.base_url"

WITHOUT_COUNTERPART: Mapping[str, str] = {
    **dict.fromkeys(
        ("output_dir", "checkpoint_dir", "onnx_export_path", "trt_model_path", "artifact_path"), _FOLDERS
    ),
    **dict.fromkeys(
        ("corpus_id", "dataset_name"), "files have the same names for every corpus: leave it out"
    ),
    **dict.fromkeys(
        (
            "artifact_recipe",
            "auto_scale_checkpoint_intervals",
            "buffer_size",
            "calibration_batch_size",
            "container_cache_path",
            "container_model_path",
            "container_port",
            "corpus_chunk_size",
            "flash_adamw_master_weight_bits",
            "health_check_interval",
            "log_level",
            "nim_batch_size",
            "nim_embedding_dimension",
            "nim_invalid_embedding_retries",
            "nim_timeout",
            "optimizer_backend",
            "pipeline_id",
            "profiling_verbosity",
            "remove_on_exit",
            "val_every_steps",
            "vllm_container_cache_path",
        ),
        _NOTHING,
    ),
    **dict.fromkeys(("pooling", "pooling_mode", "normalize", "l2_normalize"), _MODULES),
    **dict.fromkeys(
        (
            "artifact_extraction_provider",
            "embed_provider",
            "qa_generation_provider",
            "quality_judge_provider",
        ),
        _ENDPOINT,
    ),
    "allow_unhealthy_detached": "a server that does not become ready is never left running",
    "embedding_api_backend": "the deployed server is asked: deploy.backend",
    "enabled": "a stage is left out by --from and --to",
    "expected_model_fingerprint": "every model is known by its digest; deploy.verify_fingerprint=true computes it anew",
    "forward_ngc_api_key": "a NIM is given NGC_API_KEY, Retune's server is not: deploy.server",
    "lr_warmup_steps": "the warm-up is a share of all steps: finetune.warmup_ratio",
    "max_seq_len": "a server reads as many tokens as its model: model.query_max_length and model.passage_max_length",
    "model_path_env": "it follows from the version of deploy.nim_image",
    **dict.fromkeys(
        ("nim_metric_tolerance", "nim_metric_low_k_tolerance"),
        "0.01, and 0.03 where k is below 5; eval.fail_on_nim_metric_drift=false goes on after a larger drift",
    ),
    "ngc_api_key_env": "the key is in NGC_API_KEY, in the environment or .env",
    "nim_url": "the deployed server is asked: deploy.host and deploy.host_port",
    "nvidia_api_key": "the key stays in the environment or .env; sdg.api_key_env names its variable",
    "override_layernorm_precision_to_fp32": "export.trt_layer_precisions=*LayerNorm*:fp32",
    "override_layers_to_fp32": "export.trt_layer_precisions, such as */pooling_module*:fp32",
    "use_dimension_arg": "export.export_layout: recipe has the input dimensions",
    "vllm_image": "deploy.backend=vllm starts the vllm command of this machine",
    "quant_cfg": "export.export_dtype: int8_weights or int8_dynamic",
}
"""Why a name of the recipe is refused, and what to set instead."""
