"""Settings changed for one run: in the Launchpad, in the run, in what it records, and in what is stale afterwards."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.automation.jobs import MAIN_JOB
from assets_pkg.build import build_definitions
from assets_pkg.config.describe import describe
from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile, profile_names
from assets_pkg.orchestration.history import SETTINGS_KEY, latest
from assets_pkg.orchestration.resources import build_resources
from assets_pkg.orchestration.run_config import RunConfigError, profile_of_run
from assets_pkg.orchestration.run_settings import with_run_settings
from assets_pkg.orchestration.run_tags import SETTINGS_TAG, settings_digest
from assets_pkg.orchestration.stage_asset import stage_asset
from resources.chat_model.config import ChatConfig
from resources.compute.stage_targets import StageTargets
from resources.configurable import ChatModelResource, ComputeResource
from storage.artifacts import Checkpoint
from tests.graph.harness import Project
from tests.graph.launchpad import Launchpad, open_launchpad

CHECKPOINT = dg.AssetKey("checkpoint")
STEPS = frozenset({"eval_set", "training_set", "checkpoint"})
OFFERED = {
    "raw_corpus": {"corpus"},
    "passages": {"passages"},
    "base_model": set(),
    "synthetic_qa": {"sdg"},
    "eval_set": {"prep"},
    "training_set": {"prep"},
    "mined_train_set": {"prep"},
    "checkpoint": {"finetune"},
    "eval_metrics": {"eval"},
    "promoted_model": {"gate", "version", "because"},
    "onnx_model": {"export"},
    "tensorrt_engine": {"export"},
    "running_nim": {"deploy"},
    "search_method": {"search"},
    "embed_and_index": {"reindex"},
    "nim_eval_metrics": {"eval"},
}
OF_ALL_RUNS = {
    "corpus_dir",
    "base_url",
    "api_key_env",
    "allow_corpus_egress",
    "sdg_input_path",
    "milvus_uri",
    "detach",
}


@pytest.fixture
def launchpad(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launchpad]:
    home = project.profile_path.parent
    monkeypatch.chdir(home)
    module = home / "definitions.py"
    module.write_text(
        "from retune import build_definitions, load_profile\n"
        f"defs = build_definitions(load_profile({str(project.profile_path)!r}))\n"
    )
    with open_launchpad(project.instance, module) as opened:
        yield opened


def with_config(step: str, **settings: Any) -> dict[str, Any]:
    return {"ops": {step: {"config": settings}}}


def test_a_learning_rate_changed_in_the_launchpad(launchpad: Launchpad, project: Project) -> None:
    config, kept = launchpad.config(CHECKPOINT), project.version("checkpoint")
    offered = config["ops"]["checkpoint"]["config"]["finetune"]
    assert offered["learning_rate"] == project.profile.finetune.learning_rate
    assert launchpad.described(CHECKPOINT)["learning_rate"] == "Largest learning rate (number > 0 and < 1)."
    assert launchpad.launch(config, CHECKPOINT)["__typename"] == "LaunchRunSuccess"
    assert project.version("checkpoint") == kept
    assert project.plan().to_run == [], "what it is filled with are the profile's own values"

    offered |= {"learning_rate": 0.0005, "teacher": "lexical"}
    run = launchpad.launch(config, CHECKPOINT)["run"]["runId"]
    made = latest(project.instance, CHECKPOINT)
    assert made is not None
    tuned = project.store.get(Checkpoint, "checkpoint", project.version("checkpoint"))
    assert tuned.version != kept
    steps = [json.loads(line) for line in (tuned.path / "training.jsonl").read_text().splitlines()]
    assert max(step["learning_rate"] for step in steps) == 0.0005
    recorded = made.metadata[SETTINGS_KEY].value
    assert isinstance(recorded, dict)
    assert (recorded["learning_rate"], recorded["teacher"]) == (0.0005, "lexical")
    changed = project.with_overrides("finetune.learning_rate=0.0005", "finetune.teacher=lexical")
    record = project.instance.get_run_by_id(run)
    assert record is not None
    assert record.tags[SETTINGS_TAG] == settings_digest(changed.profile)

    plan = {asset.name: asset for asset in project.plan().assets}
    assert plan["checkpoint"].reasons[0] == (
        "settings changed: teacher 'lexical' -> None, learning_rate 0.0005 -> 0.0001"
    )
    assert plan["eval_metrics"].reasons == ("checkpoint changed",)
    assert [name for name in plan if plan[name].state == "fresh"] == list(plan)[
        : list(plan).index("checkpoint")
    ]
    assert changed.plan(["checkpoint"]).to_run == [], "as if the profile said so"
    project.run(["checkpoint"])
    assert project.version("checkpoint") == kept, "the profile's own checkpoint is still there"


def test_a_bad_value_is_refused_and_the_field_named(launchpad: Launchpad, project: Project) -> None:
    def refused(**settings: Any) -> str:
        answer = launchpad.launch(with_config("checkpoint", finetune=settings), CHECKPOINT)
        assert answer["__typename"] == "RunConfigValidationInvalid"
        return " ".join(error["message"] for error in answer["errors"])

    assert "root:ops:checkpoint:config:finetune:num_epochs" in refused(num_epochs="many")
    assert "root:ops:checkpoint:config:finetune:lr_scheduler" in refused(lr_scheduler="sinus")
    assert "learning_rat" in refused(learning_rat=0.1)
    launched = launchpad.launch(with_config("checkpoint", finetune={"learning_rate": 5.0}), CHECKPOINT)
    (failed,) = project.instance.all_logs(launched["run"]["runId"], dg.DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event is not None
    said = failed.dagster_event.step_failure_data.user_failure_data
    assert said is not None
    assert said.description == "run config: finetune.learning_rate = 5.0: input should be less than 1"


def test_sensors_leave_alone_what_a_run_made_with_other_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    config = {"passages": {"passages": {"sentences_per_chunk": 2}}}
    assert run_assets(project.defs, project.instance, ["passages"], config).succeeded
    assert (
        project.plan(["passages"])
        .assets[1]
        .reasons[0]
        .startswith("settings changed: sentences_per_chunk 2 -> ")
    )
    assert project.tick("reindex_when_model_or_corpus_changes") == []
    assert project.with_overrides("passages.sentences_per_chunk=2").plan(["passages"]).to_run == []


def test_a_changed_split_holds_for_both_sets_of_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    config = {"eval_set": {"prep": {"conversion_seed": 7}}}
    assert run_assets(project.defs, project.instance, ["eval_set", "training_set"], config).succeeded
    assert project.with_overrides("prep.conversion_seed=7").plan(["eval_set", "training_set"]).to_run == []


def test_a_setting_has_one_value_in_a_run() -> None:
    profile = load_profile("laptop")
    seeds = [{"prep": {"conversion_seed": seed}} for seed in (7, 42)]
    ops = dict(zip(("eval_set", "training_set"), ({"config": each} for each in seeds), strict=True))
    assert profile_of_run(profile, {"ops": ops}, STEPS).prep.conversion_seed == 7, "42 is the profile's"
    ops["training_set"]["config"] = {"prep": {"conversion_seed": 8}}
    with pytest.raises(
        RunConfigError, match=r"prep\.conversion_seed is 7 for eval_set and 8 for training_set"
    ):
        profile_of_run(profile, {"ops": ops}, STEPS)
    assert profile_of_run(profile, {"ops": {"orders": {"config": {"prep": {"x": 1}}}}}, STEPS) is profile


def test_settings_that_contradict_those_of_the_profile_are_refused() -> None:
    config = with_config("checkpoint", finetune={"train_n_passages": 9})
    with pytest.raises(ProfileError, match=r"run config: prep\.hard_negatives_to_mine = 5"):
        profile_of_run(load_profile("default"), config, STEPS)


def test_every_stage_offers_its_settings_and_no_others() -> None:
    defs = build_definitions(load_profile("laptop"), include=["sensors"])
    offered = {asset.op.name: set(_fields(asset.op.config_schema.config_type)) for asset in _assets(defs)}
    assert offered == OFFERED
    lines = {(each.section, each.name): each.line for each in describe(load_profile("laptop"))}
    for asset in _assets(defs):
        for section, fields in _fields(asset.op.config_schema.config_type).items():
            for name, field in _fields(fields.config_type).items():
                assert name not in OF_ALL_RUNS
                assert str(field.description).startswith(lines[section, name].rstrip("."))


@pytest.mark.parametrize("name", profile_names())
def test_the_defaults_are_those_of_the_profile(name: str) -> None:
    profile = load_profile(name)
    job = build_definitions(profile).resolve_job_def(MAIN_JOB)
    config = {"ops": _fields(job.run_config_schema.config_type)["ops"].default_value}
    assert profile_of_run(profile, config, [node.name for node in job.nodes]) is profile


@pytest.mark.slow
def test_a_run_with_other_settings_takes_the_same_resources() -> None:
    """Every choice and switch: nothing that a run can change needs a resource that its step has not."""
    profile = load_profile("default")
    steps = {asset.op.name: asset.op for asset in _assets(build_definitions(profile))}
    for step, op in steps.items():
        for section, fields in _fields(op.config_schema.config_type).items():
            for setting, value in _other_values(fields.config_type):
                config = with_config(step, **{section: {setting: value}})
                try:
                    changed = profile_of_run(profile, config, [step])
                except ProfileError:
                    continue
                (other,) = [each.op for each in _assets(build_definitions(changed)) if each.op.name == step]
                assert other.required_resource_keys <= op.required_resource_keys, (section, setting, value)


def test_resources_follow_the_settings_of_the_run() -> None:
    """Also where the launchpad has chosen the place; a resource of the user's own stays as it is."""
    profile, seen = load_profile("laptop", ["sdg.num_pairs=3"]), list[Any]()

    def build(settings: Profile) -> list[dg.AssetsDefinition]:
        @stage_asset("sdg", settings.sdg, kinds=set())
        def synthetic_qa(
            context: dg.AssetExecutionContext, chat_model: ChatModelResource, compute: ComputeResource
        ) -> None:
            seen[:] = [chat_model.get().config, compute.get()]

        return [synthetic_qa]

    def run(resources: dict[str, Any]) -> tuple[ChatConfig, StageTargets]:
        config = with_config("synthetic_qa", sdg={"max_calls": 8})
        config["resources"] = {"compute": {"config": {"stages": {"sdg": "far"}}}}
        assets = with_run_settings(build(profile), profile, build)
        assert dg.materialize(assets, resources=resources, run_config=config).success
        return seen[0], seen[1]

    own = vars(build_resources(profile))
    chat, targets = run(own)
    assert chat.max_calls == 8
    assert Profile.model_validate_json(targets.profile).sdg.max_calls == 8, "what a job is given"
    assert targets.stages == {"sdg": "far"}
    other = ChatModelResource(chat_config=replace(own["chat_model"].chat_config, max_calls=2))
    assert run({**own, "chat_model": other})[0].max_calls == 2


def _other_values(fields: Any) -> Iterator[tuple[str, Any]]:
    for name, field in _fields(fields).items():
        if isinstance(field.config_type, dg.Enum):
            yield from ((name, each.config_value) for each in field.config_type.enum_values)
        elif isinstance(field.default_value, bool):
            yield name, not field.default_value
        elif field.default_value is None:
            yield name, "lexical"


def _assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    return [each for each in defs.assets or [] if isinstance(each, dg.AssetsDefinition)]


def _fields(config_type: Any) -> dict[str, dg.Field]:
    return getattr(config_type, "fields", {})
