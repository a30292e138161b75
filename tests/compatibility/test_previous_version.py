"""A store and a history that the version before made are this version's own: nothing is stale, nothing is made anew,
and every command reads them."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.execute import run_assets
from tests.command.conftest import Workplace, make_workplace
from tests.compatibility.previous_version import NOW, PROMOTED, Code, extract_previous, why_absent
from tests.conftest import write_corpus
from tests.graph.harness import Project, assets_between

CAPTIONS = Path(__file__).parents[1] / "judges" / "data"
JUDGED = (
    f"judges.references={CAPTIONS / 'references.json'}",
    f"judges.predictions_dir={CAPTIONS / 'predictions'}",
    "judges.judge_models=[all-minilm-l6-v2]",
)
NEW = "search_method"
"""An asset that the previous version did not have."""

MAIN_LINE = [asset for asset in assets_between("sdg", "eval_nim") if asset != NEW]
INDEXED = ["corpus_embeddings", "vector_index"]
BENCHMARK = ["judge_scores", "judge_ranking"]
OF_THE_SERVER = ("running_nim", "nim_eval_metrics")
"""They are about the server as it is now, and made by every run that asks for them."""

MADE_TWICE = set(assets_between("sdg", "prep")) - {"base_model", "eval_set"}
"""Of fewer documents first; the frozen eval set stayed."""

RENAMED_INPUT = "training_set"
"""One of its inputs has another name now (its eval set is split or fixed): made again, it has a new key, and the same
version."""

BY_HAND = "kept by a person"
WHOLE_LINE = ("run", "--to", "eval_nim")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Code:
    absent = why_absent()
    if absent:
        pytest.skip(absent)
    return extract_previous(tmp_path_factory.mktemp("previous-version"))


@pytest.fixture(scope="module")
def made(previous: Code, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Workplace]:
    """A project of the previous version: the eval set split from fewer documents and frozen, the main line with all
    of them, its server running; captions judged, and a model promoted by hand."""
    place = make_workplace(tmp_path_factory.mktemp("made"), tiny_model, documents=12, root="output")
    write_corpus(place.home / "fewer", documents=11)
    fewer = ("run", "--to", "prep", "corpus_dir=fewer")
    settings = place.home / "profile.yaml"
    now_set = settings.read_text("utf-8")
    # The previous version has no guard sets; the profile that this one extends names one by now.
    settings.write_text(now_set.replace("gate:\n  guard_sets: []\n", ""), "utf-8")
    try:
        by_hand = ("promote", PROMOTED, "--because", BY_HAND)
        previous.retune_each(place, [fewer, ("eval-set", "freeze"), WHOLE_LINE, ("judge", *JUDGED), by_hand])
        settings.write_text(now_set, "utf-8")
        yield place
    finally:
        now(place, "deploy", "--stop")


def now(place: Workplace, *arguments: str) -> str:
    """What the command of this version printed in ``place``; it has to succeed."""
    code, output = place.retune(*arguments)
    assert code == 0, output
    return output


@pytest.fixture
def copy(made: Workplace, tmp_path: Path) -> Workplace:
    """The same project for a test that changes it."""
    shutil.copytree(made.home, tmp_path / "copy", symlinks=True)
    return Workplace(tmp_path / "copy", made.port)


@contextmanager
def opened(place: Workplace) -> Iterator[Project]:
    """The project as this version's code has it, in this process."""
    with recorded(place) as history, chdir(place.home):
        yield Project(place.home / "profile.yaml", history, JUDGED)


def recorded(place: Workplace) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(place.home / ".dagster"))


def promoted(place: Workplace) -> str:
    return place.link("promoted_model").rpartition("/")[2]


def stored(place: Workplace) -> dict[str, int]:
    """Every version, and every build key that one was made for, with the time when it was written: a version that is
    made anew to the same bytes differs in that time."""
    output = place.home / "output"
    files = [*output.glob("artifacts/*/*/manifest.json"), *output.glob("keys/*/*")]
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in files}


def materializations(place: Workplace) -> Counter[str]:
    """How often each asset was made, by the history."""
    with recorded(place) as history:
        events = {key: history.fetch_materializations(key, limit=1000) for key in history.get_asset_keys()}
    return Counter({key.to_user_string(): len(found.records) for key, found in events.items()})


def states(shown: str) -> dict[str, str]:
    """The states of the assets in a plan that was printed."""
    rows = (line.split() for line in shown.splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[0] in MAIN_LINE}


def test_each_version_runs_its_own_code(previous: Code, made: Workplace) -> None:
    assert {each.parent for each in previous.packages(made)} == {previous.tree}
    assert {each.parent for each in NOW.packages(made)} == {NOW.tree}


def test_the_plan_finds_everything_fresh_and_no_sensor_asks_for_a_run(made: Workplace) -> None:
    with opened(made) as project:
        plan = project.plan(MAIN_LINE + BENCHMARK).assets
        found = {asset.name: (asset.state, *asset.reasons) for asset in plan}
        assert found == dict.fromkeys(MAIN_LINE + BENCHMARK, ("fresh",))
        for sensor in ("reindex_when_model_or_corpus_changes", "corpus_when_documents_change"):
            assert project.tick(sensor) == []


def test_the_command_finds_nothing_stale_and_makes_nothing(made: Workplace) -> None:
    before, stored_before = materializations(made), stored(made)
    now(made, *WHOLE_LINE)
    events, versions = materializations(made), stored(made)
    assert set((events - before).elements()) <= {NEW}
    assert stored_before.items() <= versions.items()
    assert set(events) == {*MAIN_LINE, NEW, *BENCHMARK}
    shown = now(made, *WHOLE_LINE, "-d")
    assert states(shown) == dict.fromkeys(MAIN_LINE, "fresh")
    for command in (WHOLE_LINE, ("judge", *JUDGED)):
        assert "nothing is stale: nothing to run" in now(made, *command)
    assert materializations(made) == events
    assert stored(made) == versions


def test_assets_that_are_made_again_have_the_same_build_keys(copy: Workplace) -> None:
    events, versions = materializations(copy), stored(copy)
    chosen = [asset for asset in MAIN_LINE if asset not in OF_THE_SERVER]
    with opened(copy) as project:
        for assets in (chosen, BENCHMARK):
            outcome = run_assets(project.defs, project.instance, assets)
            assert outcome.succeeded, outcome.failures
        new = stored(copy).items() - versions.items()
        assert [str(path).rpartition("/")[0] for path, _ in new] == [f"keys/{RENAMED_INPUT}"]
        assert versions.items() <= stored(copy).items()
        assert materializations(copy) - events == Counter(chosen + BENCHMARK)
        assert project.stale(MAIN_LINE + BENCHMARK) == []


def test_vectors_that_were_kept_make_the_same_embeddings(copy: Workplace) -> None:
    with opened(copy) as project:
        before = [project.version(asset) for asset in INDEXED]
        shutil.rmtree(copy.home / "output/artifacts/corpus_embeddings")
        outcome = run_assets(project.defs, project.instance, INDEXED)
        assert outcome.succeeded, outcome.failures
        said = "\n".join(entry.user_message for entry in project.instance.all_logs(outcome.run_id))
        assert re.search(r"\b(\d+) of \1 texts, cached \1\b", said), said
        assert [project.version(asset) for asset in INDEXED] == before


def test_search_reads_the_index(made: Workplace) -> None:
    output = now(made, "search", "How the kiln handles glaze and firing", "--json", "-k", "3")
    hits = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(hits) == 3
    assert all((made.home / "documents" / hit["doc_id"]).exists() for hit in hits)


def test_the_frozen_eval_set_and_the_promotions_are_read(made: Workplace) -> None:
    eval_set = made.link("stage1_data_prep/eval_beir").split("/")[2]
    assert f"eval set {eval_set}: frozen" in now(made, "eval-set", "show")
    history = " ".join(now(made, "promote", "--show").split())
    assert BY_HAND in history
    assert "promoted: NDCG@10" in history
    assert promoted(made) in history


def test_old_versions_are_found_and_only_those(made: Workplace) -> None:
    versions = stored(made)
    listed = now(made, "gc", "-d", "--keep", "1")
    removable = [tuple(line.split()[:2]) for line in listed.splitlines() if line.endswith(" MB")]
    assert {asset for asset, _ in removable} == MADE_TWICE
    assert {f"artifacts/{asset}/{version}/manifest.json" for asset, version in removable} < set(versions)
    assert stored(made) == versions
