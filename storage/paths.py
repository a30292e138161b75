"""Every path below the artifact root, once: the recipe's names, and Retune's own caches and state.

Paths are relative to `ArtifactStore.root`, in POSIX form. Names that `ArtifactStore.link` sets point at the current
version of an artifact; the others are folders and files of this machine.
"""

from __future__ import annotations

# ---- the store's own layout, see storage.artifact_store ------------------------------------------------------

ARTIFACTS = "artifacts"
BUILD_KEYS = "keys"
WORK = ".work"
SET_ASIDE = ".work/.failed"
"""Versions that failed a check, for a look; not among the unfinished builds."""

# ---- links to current versions -------------------------------------------------------------------------------

SDG_STAGE = "stage0_sdg"
DATA_PREP_STAGE = "stage1_data_prep"
FROZEN_EVAL_SET = f"{DATA_PREP_STAGE}/frozen_eval_set"
CHECKPOINTS = "stage2_finetune/checkpoints"
EVAL_STAGE = "stage3_eval"
ONNX_LINK = "stage4_export/onnx"
TENSORRT_LINK = "stage4_export/tensorrt"
PROMOTED_MODEL = "promoted_model"
INDEX_LINK = "reindex/index"
SEARCH_METHODS = "reindex/search_methods"
"""Followed by a model's digest: the method that was last chosen for it."""
JUDGE_RESULTS = "judges/results"
JUDGE_RANKING = "judges/ranking"
IMAGE_TEXT_RESULTS = "image_text/benchmark_results.tsv"
IMAGE_TEXT_REPORT = "image_text/report"

# ---- state and caches ----------------------------------------------------------------------------------------

STATE_FOLDER = "stage5_deploy"
"""What is deployed, and the server's log."""

CACHE = ".cache"
"""Of the corpus: digests of files, the text of those that are no plain text, and the languages of texts."""

EMBEDDING_CACHE = ".cache/embeddings"
VERIFIED_FILES = ".cache/verified"
"""For each version, which of its files were found right (`storage.verification`)."""

ANSWER_CACHE = ".cache/chat_answers.sqlite"
FORMER_CAPTION_ANSWERS = ".cache/answers.sqlite"
"""Where earlier versions kept the chat model's answers about images."""

JOBS = ".jobs"
"""Folders of the jobs that run outside this process."""

DETACHED_JOBS = f"{JOBS}/batches"
"""One JSON file for each detached job."""
