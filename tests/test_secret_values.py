"""What counts as a secret in a value, in every place where a value can be written, and that it is shown nowhere."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.sdg import EndpointSettings
from resources.compute.errors import ComputeError
from resources.compute.targets import ComputeTarget, read_target, read_wandb
from resources.models.registry import RegistryError, load_registry
from resources.secret_values import find_secret
from tests.command.conftest import Workplace, make_workplace

CANARY = "c4nary5ecret"
HOLD_SECRETS = [
    f"https://user:{CANARY}@host.example.org/docs",
    f"https://{CANARY}@host.example.org/docs",
    f"https://:{CANARY}@host.example.org:8443",
    f"https://user:{CANARY}/with-slash@host.example.org",
    f"https://user:{CANARY}?x@host.example.org",
    f"http://user:{CANARY}\\@host.example.org",
    f"s3://{CANARY}:key@bucket/x",
    f"sftp://me:{CANARY}@host/x",
    f"ssh://me%3A{CANARY}@host/x",
    f"abfs://container:{CANARY}@account.dfs.core.windows.net/x",
    f"filecache::https://user:{CANARY}@host/x",
    f"user:{CANARY}@milvus.example.org:19530",
    f"https://host/docs?api_key={CANARY}",
    f"https://host/docs?sv=2024&SIG={CANARY}",
    f"https://host/docs?X-Amz-Signature={CANARY}&X-Amz-Date=1",
    f"https://host/docs;jsessionid=1?a=1;token={CANARY}",
    f"https://host/docs#access_token={CANARY}",
    f"https://host/docs?%6Bey={CANARY}",
    f"https://hooks.slack.com/services/T0/B0/{CANARY}",
    f"https://discord.com/api/webhooks/1/{CANARY}",
    f"https://team.webhook.office.com/webhookb2/{CANARY}@1/IncomingWebhook/2",
    f"curl http://a.example.org http://me:{CANARY}@b.example.org",
    f"export NVIDIA_API_KEY={CANARY}",
    f'{{HF_TOKEN = "{CANARY}"}}',
    f"nvapi-{CANARY}-0123456789",
    f"hf_{CANARY}0123456789",
    f"-----BEGIN OPENSSH PRIVATE KEY----- {CANARY}",
]
TARGET_KEYS = ("env_vars", "setup", "mounts", "address", "acount", "remote_job_dir")
HOLD_NONE = [
    "hf://nvidia/Retrieval-Synthetic-NVDocs-v1@1c0d1856f3fb595b2dda98d4b61061fa6d782d51/sample_corpus",
    "https://integrate.api.nvidia.com/v1",
    "http://localhost:8000/docs@v1?page=2&keyword=token",
    "http://[::1]:19530",
    "s3://bucket/prefix",
    "abfs://container@account.dfs.core.windows.net/docs",
    "sftp://me@host/docs",
    "docker://$oauthtoken@nvcr.io#nvidia/pytorch:24.01-py3",
    "nvcr.io/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1.10.1",
    "retune:latest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/data/react-hooks/sk-learn-documentation/a:b@c",
    "https://react.example.org/react-hooks/useState",
    "colours://xkcd",
    "pydoc://stdlib",
    "NVIDIA_API_KEY",
    "export HF_TOKEN=$(cat ~/.token) TOKENIZERS_PARALLELISM=false",
    'export HF_TOKEN="$OTHER" KRB5_KEYTAB_FILE=/etc/krb5.keytab HF_TOKEN_PATH=/home/me/token',
    '[ "$HF_TOKEN" = "" ] && exit 1',
    "Ask about the API: what does key=value mean, and who is a@b.example.org?",
]


@pytest.mark.parametrize("text", HOLD_SECRETS)
def test_a_secret_is_found_by_its_form(text: str) -> None:
    assert find_secret(text)
    assert CANARY not in (find_secret(text) or "")


@pytest.mark.parametrize("text", HOLD_NONE)
def test_what_people_write_is_not_taken_for_one(text: str) -> None:
    assert find_secret(text) is None


def test_no_default_and_no_profile_is_refused() -> None:
    for name in ("default", "laptop"):
        assert isinstance(load_profile(name), Profile)


def keys_of_texts() -> list[str]:
    """Every setting whose value is, or has in it, a text."""
    profile = load_profile("default")
    keys = ["artifact_root", "compute.stages.prep", "compute.overrides.account"]
    for section, field in Profile.model_fields.items():
        settings = getattr(profile, section)
        if not isinstance(settings, str):
            fields = type(settings).model_fields
            keys += [f"{section}.{name}" for name in fields if "str" in str(fields[name].annotation)]
        else:
            assert field.annotation is str
    return keys


def everything_said(error: BaseException) -> str:
    """The message and, as Dagster's UI shows them, the messages of all errors behind it."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("key", keys_of_texts())
def test_every_setting_refuses_a_secret_and_shows_none(key: str, tmp_path: Path) -> None:
    for text in (HOLD_SECRETS[0], HOLD_SECRETS[12], f"nvapi-{CANARY}-0123456789"):
        with pytest.raises(ProfileError, match="put the secret into the environment") as caught:
            load_profile("default", [f"{key}={text}"])
        assert key in str(caught.value)
        assert CANARY not in everything_said(caught.value).replace(f"{key}={text}", "")


def written(folder: Path, settings: dict[str, Any]) -> str:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(settings), "utf-8")
    return str(file)


@pytest.mark.parametrize("text", HOLD_SECRETS)
def test_a_profile_with_a_secret_is_refused_wherever_it_stands(text: str, tmp_path: Path) -> None:
    for settings in (
        {"corpus": {"corpus_dir": text}},
        {"corpus": {"corpus_dirr": text}},
        {"corpus": text},
        {"finetune": {"num_epochs": text}},
        {"sdg": {"approved_endpoints": ["host", text]}},
        {"reindex": {"index_parameters": {text: 1}}},
        {"extends": text},
        {text: 1},
    ):
        with pytest.raises(ProfileError) as caught:
            load_profile(written(tmp_path, settings))
        assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:CANARY}",
        "prefix/${oc.env:CANARY,x}",
        "${oc.decode:${oc.env:CANARY}}",
        "${${artifact_root}:CANARY}",
        "${oc.select:${oc.env:CANARY}}",
        "${a_resolver_of_a_library:CANARY}",
    ],
)
def test_the_environment_is_not_read_into_settings(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    root = {"artifact_root": "oc.env"} if "artifact_root" in text else {}
    for settings in ({"corpus": {"corpus_dir": text}}, {"extends": text}):
        with pytest.raises(ProfileError, match="is not read here") as caught:
            load_profile(written(tmp_path, {**root, **settings}))
        assert CANARY not in everything_said(caught.value)
    for key in ("corpus_dir", "run.env.account"):
        with pytest.raises(ProfileError, match="is not read here") as caught:
            load_profile("default", [f"{key}={text}"])
        assert CANARY not in everything_said(caught.value)


def test_other_settings_can_be_named_in_files_and_overrides(tmp_path: Path) -> None:
    file = written(tmp_path, {"artifact_root": "/out", "corpus": {"corpus_dir": "${artifact_root}/a:b"}})
    assert load_profile(file).corpus.corpus_dir == "/out/a:b"
    named = load_profile(file, ["milvus_uri=${corpus.corpus_dir}/x.db"])
    assert named.reindex.milvus_uri == "/out/a:b/x.db"


def test_a_url_put_together_from_settings_is_seen(tmp_path: Path) -> None:
    parts = {"reindex": {"milvus_collection": f"user:{CANARY}"}, "corpus": {"corpus_dir": ""}}
    parts["corpus"]["corpus_dir"] = "https://${reindex.milvus_collection}@host/x"
    with pytest.raises(ProfileError, match=r"corpus\.corpus_dir: holds a URL with a user name") as caught:
        load_profile(written(tmp_path, parts))
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize("key", ["api_key_env", "milvus_token_env"])
def test_a_key_in_the_place_of_its_variables_name_is_not_shown(key: str) -> None:
    with pytest.raises(ProfileError, match=f"{key}: string should match pattern") as caught:
        load_profile("default", [f"{key}=root-{CANARY}"])
    assert CANARY not in everything_said(caught.value)


def test_errors_of_a_section_alone_show_no_value() -> None:
    with pytest.raises(ValueError, match="api_key_env") as caught:
        EndpointSettings.model_validate({"api_key_env": f"root-{CANARY}"})
    assert CANARY not in everything_said(caught.value)


def test_a_file_that_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    for text in (
        f"a: [https://u:{CANARY}@h",
        f"a: 'https://u:{CANARY}@h/${{'",
        f"a: ${{https://u:{CANARY}@h",
    ):
        (tmp_path / "bad.yaml").write_text(text, "utf-8")
        with pytest.raises(ProfileError) as caught:
            load_profile(str(tmp_path / "bad.yaml"))
        assert CANARY not in everything_said(caught.value)
    with pytest.raises(ProfileError) as caught:
        load_profile("default", [f"https://u:{CANARY}@h"])
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("account", text) for text in HOLD_SECRETS),
        *((key, text) for key in TARGET_KEYS for text in HOLD_SECRETS[::9]),
    ],
)
def test_a_compute_target_with_a_secret_is_refused(key: str, text: str, tmp_path: Path) -> None:
    literal = "'" + text.replace("'", "") + "'"
    value = {"env_vars": f"{{ A = {literal} }}", "setup": f"[{literal}]", "mounts": f"[{literal}]"}
    (tmp_path / "env.toml").write_text(
        f'[there]\nexecutor = "slurm"\n{key} = {value.get(key, literal)}\n[wandb]\nproject = {literal}\n',
        "utf-8",
    )
    for read in (lambda file: read_target(file, "there"), read_wandb):
        with pytest.raises(ComputeError, match="put the secret into the environment") as caught:
            read(tmp_path / "env.toml")
        assert CANARY not in everything_said(caught.value)
    with pytest.raises(ComputeError) as caught:
        read_target(tmp_path / "env.toml", "there", {key: value.get(key, literal)})
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize("name", ["HF_TOKEN", "MYSQL_PWD", "SLACK_WEBHOOK_URL", "apikey", "PGPASSWORD"])
def test_a_variable_that_is_named_like_a_secret_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="list its name under secrets") as caught:
        ComputeTarget.model_validate({"executor": "subprocess", "env_vars": {name: CANARY}})
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize("text", HOLD_SECRETS)
def test_a_model_of_the_registry_with_a_secret_is_refused(text: str, tmp_path: Path) -> None:
    entry = {"provider_type": "local", "base_url": "http://localhost:8080"}
    endpoint = {"path": text, "output_field": "x"}
    for facts in ({"base_url": text}, {"notes": [text]}, {"text_endpoint": endpoint}, {"bas_url": text}):
        file = written(tmp_path, {"models": {"mine": {**entry, **facts}}})
        with pytest.raises(RegistryError, match="put the secret into the environment") as caught:
            load_registry(Path(file))
        assert CANARY not in everything_said(caught.value)
    for wrong in (
        f"models: [{text}",
        f"models: {{mine: {{provider_type: local, api_key_env: root-{CANARY}}}}}",
    ):
        (tmp_path / "bad.yaml").write_text(wrong, "utf-8")
        with pytest.raises(RegistryError) as caught:
            load_registry(tmp_path / "bad.yaml")
        assert CANARY not in everything_said(caught.value)


TARGETS = '[child]\nexecutor = "subprocess"\n[other]\nexecutor = "subprocess"\n'


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Workplace:
    made = make_workplace(tmp_path / "project", tiny_model, documents=8)
    (made.home / "env.toml").write_text(TARGETS, "utf-8")
    return made


def holders(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        {"profile": {"corpus": {"corpus_dir": HOLD_SECRETS[0]}}},
        {"profile": {"reindex": {"milvus_uri": HOLD_SECRETS[5]}}},
        {"profile": {"image_text": {"caption_base_url": HOLD_SECRETS[12]}}},
        {"profile": {"corpus": {"corpus_dir": "${oc.env:RETUNE_CANARY}"}}},
        {"targets": f'env_vars = {{ SOME_URL = "{HOLD_SECRETS[18]}" }}\n'},
        {"targets": f'setup = ["pip install -i {HOLD_SECRETS[0]}"]\n'},
    ],
    ids=["corpus_dir", "milvus_uri", "caption_base_url", "resolver", "webhook", "setup"],
)
def test_no_command_shows_or_writes_a_secret(project: Workplace, place: dict[str, Any]) -> None:
    project.extra = {"RETUNE_CANARY": CANARY}  # forked from the same process as others
    profile, targets = project.home / "profile.yaml", project.home / "env.toml"
    settings = yaml.safe_load(profile.read_text("utf-8"))
    for section, values in place.get("profile", {}).items():
        settings[section] = {**settings.get(section, {}), **values}
    profile.write_text(yaml.safe_dump(settings), "utf-8")
    targets.write_text(TARGETS + place.get("targets", ""), "utf-8")
    commands = [["info"], ["run", "--to", "sdg"]] if "profile" in place else [["sdg", "--run", "other"]]
    for command in commands:
        code, said = project.retune(*command)
        assert (code, "put the secret" in said or "is not read here" in said) == (
            2 if "profile" in place else 1,
            True,
        )
        assert CANARY not in said
        assert "Traceback" not in said
    assert set(holders(project.home)) <= {profile, targets}


@pytest.mark.slow
def test_values_for_a_job_are_in_files_of_its_user_only(project: Workplace) -> None:
    (project.home / "env.toml").write_text(
        f'[child]\nexecutor = "subprocess"\nenv_vars = {{ GREETING = "{CANARY}" }}\n', "utf-8"
    )
    for command in (["sdg", "--batch", "child"], ["jobs", "list"]):
        code, said = project.retune(*command)
        assert code == 0, said
        assert CANARY not in said
    found = {path for path in holders(project.home) if path.name != "env.toml"}
    assert {path.parent.parent.name for path in found} == {".jobs"}  # the script, and the record of the job
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    jobs = [path.parent for path in project.home.rglob("job.sh")]
    assert {folder.stat().st_mode & 0o777 for folder in jobs} == {0o700}
