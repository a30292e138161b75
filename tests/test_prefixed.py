"""Several graphs in one code location, each under a key prefix of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import assets_pkg
from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from assets_pkg.orchestration.history import latest
from assets_pkg.orchestration.names import Names, NamesError
from assets_pkg.orchestration.places import PlacesError
from assets_pkg.orchestration.run_tags import job_tags
from resources.configurable import AlertsResource
from tests.conftest import write_corpus, write_profile

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
DOCUMENTS = ["raw_corpus", "passages"]


@pytest.fixture(scope="module")
def plain() -> dg.Definitions:
    return build_definitions(load_profile("laptop"))


@pytest.fixture(scope="module")
def merged(plain: dg.Definitions) -> dg.Definitions:
    """Two prefixed graphs, one without a prefix, and a resource of the host's own that is called as one of ours."""
    two = [
        build_definitions(
            load_profile("laptop", [f"artifact_root=output/{port}", f"deploy.host_port={port}"]),
            key_prefix=prefix,
        )
        for prefix, port in (("faq", 8001), (["team", "wiki"], 8000))
    ]
    host = dg.Definitions(resources={"database": "host's"}, assets=[dg.AssetSpec("orders")])
    return dg.Definitions.merge(plain, *two, host)


def names_of(defs: dg.Definitions) -> dict[str, set[str]]:
    repository = defs.get_repository_def()
    return {
        "assets": {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
        - {"orders"},
        "jobs": {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")},
        "sensors": {sensor.name for sensor in repository.sensor_defs},
        "schedules": {schedule.name for schedule in repository.schedule_defs},
        "steps": {asset.op.name for asset in repository.assets_defs_by_key.values() if asset.is_executable},
        "resources": set(repository.get_top_level_resources()) - {"database"},
        "checks": {
            f"{key.asset_key.to_user_string()}:{key.name}" for key in repository.asset_graph.asset_check_keys
        },
    }


def test_graphs_under_prefixes_have_all_names_of_their_own(
    plain: dg.Definitions, merged: dg.Definitions
) -> None:
    dg.Definitions.validate_loadable(merged)
    alone, together = names_of(plain), names_of(merged)
    for kind, names in alone.items():
        by_path = kind in ("assets", "checks")
        prefixes = ("", "faq/", "team/wiki/") if by_path else ("", "faq__", "team__wiki__")
        assert together[kind] == {f"{prefix}{name}" for prefix in prefixes for name in names}, kind


def test_a_prefixed_graph_has_the_edges_code_versions_and_descriptions_of_the_plain_one(
    plain: dg.Definitions, merged: dg.Definitions
) -> None:
    one, all_of_them = plain.resolve_asset_graph(), merged.resolve_asset_graph()
    names = Names.under(["team", "wiki"])
    for key in one.get_all_asset_keys():
        here, there = one.get(key), all_of_them.get(names.key(key.path[-1]))
        assert there.parent_keys == {names.key(parent.path[-1]) for parent in here.parent_keys}
        assert there.code_version == here.code_version
        assert (there.description, there.owners, there.pools) == (here.description, here.owners, here.pools)
        assert there.group_name == f"team_wiki_{here.group_name}"
    for check in one.asset_check_keys:
        moved = dg.AssetCheckKey(names.key(check.asset_key.path[-1]), check.name)
        read = {dep.asset_key for dep in all_of_them.get_check_spec(moved).additional_deps}
        assert read == {
            names.key(dep.asset_key.path[-1]) for dep in one.get_check_spec(check).additional_deps
        }
        assert all_of_them.get_check_spec(moved).blocking == one.get_check_spec(check).blocking


def test_a_user_sets_groups_owners_tags_and_the_pool() -> None:
    defs = build_definitions(
        load_profile("laptop"),
        key_prefix="faq",
        group_prefix="",
        owners=["team:support"],
        tags={"domain": "support"},
        accelerator_pool="second_gpu",
        include=["sensors"],
    )
    graph = defs.resolve_asset_graph()
    checkpoint = graph.get(dg.AssetKey(["faq", "checkpoint"]))
    assert (checkpoint.group_name, checkpoint.owners, checkpoint.pools) == (
        "finetune",
        ["team:support"],
        {"second_gpu"},
    )
    assert checkpoint.tags["domain"] == "support"
    assert not graph.has(dg.AssetKey(["faq", "judge_scores"])), "benchmarks are not included"
    assert not defs.get_repository_def().schedule_defs
    with pytest.raises(ValueError, match="include"):
        build_definitions(load_profile("laptop"), include=["everything"])


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        ("artifact_root=output/both", f"artifact_root, {Path('output/both').resolve()}"),
        ("deploy.host_port=9000", "deploy.host_port, 9000"),
    ],
)
def test_graphs_that_share_a_place_are_refused(shared: str, said: str) -> None:
    def graph(prefix: str, port: int) -> dg.Definitions:
        own = [f"artifact_root=output/{prefix}", f"deploy.host_port={port}", shared]
        return build_definitions(load_profile("laptop", own), key_prefix=prefix)

    merged = dg.Definitions.merge(graph("faq", 8001), graph("wiki", 8002))
    with pytest.raises(dg.DagsterInvalidDefinitionError) as raised:
        dg.Definitions.validate_loadable(merged)
    assert isinstance(raised.value.__cause__, PlacesError)
    assert str(raised.value.__cause__).startswith(f"the graphs faq and wiki have the same {said}: give each")


@pytest.mark.parametrize("prefix", ["a/b", "a b", "", ["a", "b-c"]])
def test_a_prefix_that_is_no_name_is_refused(prefix: Any) -> None:
    with pytest.raises(NamesError, match="key_prefix"):
        Names.under(prefix)


@pytest.fixture
def two(tmp_path: Path, tiny_model: Path) -> dg.Definitions:
    """Two graphs over documents of different numbers."""

    def graph(name: str, documents: int) -> dg.Definitions:
        home = tmp_path / name
        corpus = write_corpus(home / "documents", documents)
        root, port = home / "output", 18000 + documents
        profile = write_profile(home / "p.yaml", corpus=corpus, model=tiny_model, root=root, port=port)
        return build_definitions(load_profile(str(profile)), key_prefix=name)

    return dg.Definitions.merge(graph("faq", 8), graph("wiki", 5))


def read_documents(defs: dg.Definitions, instance: dg.DagsterInstance, *prefixes: str) -> None:
    keys = [dg.AssetKey([prefix, name]) for prefix in prefixes for name in DOCUMENTS]
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(run_config=QUIET, instance=instance, asset_selection=keys).success


@pytest.mark.slow
def test_two_graphs_run_side_by_side(two: dg.Definitions, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        read_documents(two, instance, "faq", "wiki")
        faq, wiki = (latest(instance, dg.AssetKey([prefix, "raw_corpus"])) for prefix in ("faq", "wiki"))
        assert faq is not None
        assert wiki is not None
        assert (faq.metadata["documents"].value, wiki.metadata["documents"].value) == (8, 5)
        assert str(faq.metadata["path"].value).startswith(str(tmp_path / "faq" / "output"))
        cut = latest(instance, dg.AssetKey(["faq", "passages"]))
        assert cut is not None
        assert (cut.tags or {})["dagster/input_data_version/faq/raw_corpus"] == (faq.tags or {})[
            "dagster/data_version"
        ]
        checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [
                dg.AssetCheckKey(dg.AssetKey([prefix, "passages"]), "few_ended_by_limit")
                for prefix in ("faq", "wiki")
            ]
        )
        assert len(checks) == 2


@pytest.mark.slow
def test_the_sensors_of_a_graph_see_its_own_documents_only(two: dg.Definitions, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        read_documents(two, instance, "faq", "wiki")
        new = tmp_path / "wiki" / "documents" / "new.md"
        new.write_text("# New\n\nA document that was not there before.\n", "utf-8")

        def tick(sensor: str) -> Any:
            definition = two.resolve_sensor_def(sensor)
            given = {"faq__alerts": AlertsResource()}
            with dg.build_sensor_context(instance=instance, definitions=two, resources=given) as context:
                return definition(context)

        unchanged, changed = (tick(f"{name}__corpus_when_documents_change") for name in ("faq", "wiki"))
        assert isinstance(unchanged, dg.SkipReason)
        assert unchanged.skip_message == "no document changed"
        assert isinstance(changed, dg.RunRequest)
        assert isinstance(tick("faq__server_watch"), dg.SkipReason), "it takes the alerts of its own graph"


def test_the_public_names_are_there() -> None:
    assert set(assets_pkg.__all__) == set(dir(assets_pkg))
    assert assets_pkg.build_definitions is build_definitions
    assert all(getattr(assets_pkg, name) for name in assets_pkg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'anything'"):
        assets_pkg.anything  # noqa: B018


@pytest.mark.slow
def test_runs_say_which_settings_and_data_they_worked_with(two: dg.Definitions) -> None:
    job = two.resolve_job_def("wiki__refresh_corpus")
    assert job.tags["retune/settings"] != two.resolve_job_def("faq__refresh_corpus").tags["retune/settings"]
    with dg.DagsterInstance.ephemeral() as instance:
        keys = [dg.AssetKey(["wiki", "raw_corpus"])]
        done = job.execute_in_process(run_config=QUIET, instance=instance, asset_selection=keys)
        (made,) = done.asset_materializations_for_node("wiki__raw_corpus")
        run = instance.get_run_by_id(done.run_id)
        assert run is not None
        assert run.tags["retune/wiki__raw_corpus"] == (made.tags or {})["dagster/data_version"]
        assert run.tags["retune/settings"] == job.tags["retune/settings"]


def test_the_revision_is_that_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = load_profile("laptop")
    assert "retune/revision" not in job_tags(profile)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    written = next((tmp_path / ".git/refs/heads").iterdir()).read_text().strip()
    assert job_tags(profile)["retune/revision"] == written


class RecordedAlerts(AlertsResource):
    """Writes what is sent into a file."""

    file: str

    def send(self, event: str, text: str) -> bool:
        with Path(self.file).open("a", encoding="utf-8") as lines:
            lines.write(f"{event}: {text}\n")
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asset", "alerts"), [(["faq", "raw_corpus"], 1), (["wiki", "raw_corpus"], 0), (["orders"], 0)]
)
def test_alerts_are_about_runs_of_the_graph(
    two: dg.Definitions, tmp_path: Path, asset: list[str], alerts: int
) -> None:
    @dg.asset
    def orders() -> None:
        raise RuntimeError("no orders")

    sent = tmp_path / "alerts.txt"
    sent.touch()
    for name in ("faq", "wiki"):
        for document in (tmp_path / name / "documents").rglob("*.*"):
            document.unlink()
    defs = dg.Definitions.merge(two, dg.Definitions(assets=[orders]))
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        failed = job.execute_in_process(
            run_config=QUIET, instance=instance, asset_selection=[dg.AssetKey(asset)], raise_on_error=False
        )
        context = dg.build_run_status_sensor_context(
            sensor_name="faq__alert_when_a_run_fails",
            dagster_event=failed.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=failed.dagster_run,
            resources={"faq__alerts": RecordedAlerts(file=str(sent))},
        ).for_run_failure()
        defs.resolve_sensor_def("faq__alert_when_a_run_fails")(context)
    assert len(sent.read_text().splitlines()) == alerts
