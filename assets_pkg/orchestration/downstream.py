"""The graph's artifacts in assets of the user's own."""

from pathlib import Path

import dagster as dg

from assets_pkg.orchestration.history import artifact_ref, latest, visible_to
from storage import artifacts
from storage.artifacts import Artifact
from storage.errors import RetuneError
from storage.remote import is_url
from storage.remote_store import open_store

KINDS: dict[str, type[Artifact]] = {
    "raw_corpus": artifacts.Corpus,
    "passages": artifacts.Passages,
    "synthetic_qa": artifacts.QAPairs,
    "training_set": artifacts.TrainingSet,
    "eval_set": artifacts.EvalSet,
    "mined_train_set": artifacts.MinedTrainSet,
    **dict.fromkeys(artifacts.CHECKPOINTS, artifacts.Checkpoint),
    **dict.fromkeys(("eval_metrics", "single_model_metrics", "nim_eval_metrics"), artifacts.EvalReport),
    "onnx_model": artifacts.OnnxModel,
    "tensorrt_engine": artifacts.TensorrtEngine,
    "search_method": artifacts.SearchChoice,
    "corpus_embeddings": artifacts.CorpusEmbeddings,
    "vector_index": artifacts.VectorIndex,
    "judge_scores": artifacts.JudgeScores,
    "judge_ranking": artifacts.JudgeRanking,
    "image_text_pairs": artifacts.ImageTextPairs,
    "captions": artifacts.Captions,
    "image_text_scores": artifacts.ImageTextScores,
    "image_text_report": artifacts.ImageTextReport,
}
"""The type of every artifact, by the asset that builds it."""


class NoArtifactError(RetuneError):
    """An asset has no artifact that can be loaded; the message says what to materialize."""


def load_artifact(
    context: dg.AssetExecutionContext | dg.DagsterInstance, asset: dg.AssetKey | str | list[str]
) -> Artifact:
    """The artifact of the latest materialization of ``asset``: a class of :mod:`storage.artifacts`, with the folder of
    its files in ``path``. In a run it is the one that the run itself made, or else the latest from before it began.

    Args:
        context: of the step that loads it, or an instance.
        asset: its key, with the prefix of its graph: ``["faq", "vector_index"]``. ``promoted_model`` is the checkpoint
            or base model that is promoted.

    Raises:
        NoArtifactError: it was never materialized, makes no artifact, or its artifact was deleted.
    """
    key = dg.AssetKey(asset) if isinstance(asset, str | list) else asset
    made = _materialization(context, key)
    recorded = None if made is None else artifact_ref(made)
    if made is None or recorded is None or "path" not in made.metadata:
        raise NoArtifactError(f"{key.to_user_string()} has no artifact: materialize it first")
    kind, path = KINDS[recorded.asset], Path(str(made.metadata["path"].value))
    if path.is_dir():
        return kind(path, *recorded)
    address = str(made.metadata["dagster/uri"].value)
    if not is_url(address):
        raise NoArtifactError(
            f"{key.to_user_string()} {recorded.version}: {path} is not there: materialize it again"
        )
    return open_store(address.rsplit("/artifacts/", 1)[0]).get(kind, *recorded)


def _materialization(
    context: dg.AssetExecutionContext | dg.DagsterInstance, key: dg.AssetKey
) -> dg.AssetMaterialization | None:
    if isinstance(context, dg.DagsterInstance):
        return latest(context, key)
    record = visible_to(context.instance, context.run_id, key)
    return None if record is None else record.asset_materialization
