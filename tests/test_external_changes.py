"""Files outside the graph that changed since they were read make what was made from them stale."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import dagster as dg
from PIL import Image

from assets_pkg.automation.external_changes import EXTERNAL_CHANGES, build_probes
from assets_pkg.config.profile_files import load_profile
from assets_pkg.evaluation.assets import GUARD_SETS
from assets_pkg.evaluation.guard import guard_fingerprints
from assets_pkg.image_text.assets import build_assets
from assets_pkg.judges.assets import CAPTIONS
from assets_pkg.judges.pipeline import load_captions
from assets_pkg.orchestration.history import latest
from assets_pkg.orchestration.resources import build_resources
from resources.configurable import AcceleratorResource, ArtifactStoreResource, ComputeResource
from storage.artifact_store import ArtifactStore
from storage.formats.beir import BeirDocument, BeirQuery, write_beir


def test_a_changed_image_makes_the_pairs_stale(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(pictures / f"{name}.png")
        (pictures / f"{name}.txt").write_text(name)
    profile = load_profile("laptop", [f"artifact_root={tmp_path / 'out'}", f"pairs={pictures}"])
    resources = {
        "store": ArtifactStoreResource(root=str(tmp_path / "out")),
        "accelerator": AcceleratorResource(device="cpu"),
        "compute": ComputeResource(),
        "chat_model": build_resources(profile).chat_model,
    }
    probe = build_probes(profile)["image_text_pairs"]
    with dg.DagsterInstance.ephemeral() as instance:
        assets = build_assets(profile)
        dg.materialize(assets, selection=["image_text_pairs"], resources=resources, instance=instance)
        made = latest(instance, "image_text_pairs")
        assert made is not None
        assert probe(made) is None
        Image.new("RGB", (8, 8), (0, 255, 0)).save(pictures / "red.png")
        assert probe(made) == f"{pictures} changed"


def test_a_changed_guard_set_makes_the_promotion_stale(tmp_path: Path) -> None:
    """The gate asks it again: a model that was refused, or promoted, for what the set said may not be now."""
    documents, questions = [BeirDocument("d", "A pump runs.")], [BeirQuery("q", "What runs?")]
    write_beir(tmp_path / "manuals", documents, questions, {"q": {"d": 1}})
    profile = load_profile(
        "laptop", [f"artifact_root={tmp_path}", f"gate.guard_sets=[general,{tmp_path / 'manuals'}]"]
    )
    made = dg.AssetMaterialization("promoted_model", metadata={GUARD_SETS: guard_fingerprints(profile.gate)})
    changed = partial(EXTERNAL_CHANGES["promoted_model"], profile=profile, _=ArtifactStore(tmp_path))
    assert changed(made) is None
    write_beir(tmp_path / "manuals", documents, [BeirQuery("q", "What is it that runs?")], {"q": {"d": 1}})
    assert changed(made) == f"guard set {tmp_path / 'manuals'} changed"
    (tmp_path / "manuals" / "qrels" / "test.tsv").unlink()
    assert changed(made) == f"guard set {tmp_path / 'manuals'} changed"
    by_hand_or_by_an_earlier_version = dg.AssetMaterialization("promoted_model")
    assert changed(by_hand_or_by_an_earlier_version) is None


def test_a_changed_caption_makes_the_scores_stale(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "references.json").write_text(json.dumps({"clip": "A pump runs."}))
    (tmp_path / "predictions" / "one.json").write_text(json.dumps({"clip": "A pump."}))
    profile = load_profile(
        "laptop",
        [f"references={tmp_path / 'references.json'}", f"predictions_dir={tmp_path / 'predictions'}"],
    )
    recorded = {CAPTIONS: load_captions(profile.judges).digest()}
    probe = build_probes(profile)["judge_scores"]
    made = dg.AssetMaterialization("judge_scores", metadata=recorded)
    assert probe(made) is None
    (tmp_path / "predictions" / "one.json").write_text(json.dumps({"clip": "A valve."}))
    assert probe(made) == "the files of judges.references or judges.predictions_dir changed"
