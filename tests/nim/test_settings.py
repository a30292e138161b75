"""Where a setting comes from, and what is said of one that does not work."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets_pkg.nim.settings import (
    ENVIRONMENT,
    FrontSettings,
    ServerSettings,
    SettingsError,
    front_settings_from,
    listen_address,
    settings_from,
    unknown_variables,
    variables_table,
)

FOLDER = {"NIM_CUSTOM_MODEL": "/models/one"}


def test_nim_variables() -> None:
    settings = settings_from(
        {
            **FOLDER,
            "NIM_SERVER_BIND_ADDR": "[::]:9000",
            "NIM_TRITON_MAX_BATCH_SIZE": "3",
            "NIM_MAX_CLIENT_BATCH_SIZE": "2048",
            "NIM_SERVED_MODEL_NAME": "a, b",
            "NIM_SERVER_REQUEST_TIMEOUT_S": "1.5",
            "NIM_LOG_LEVEL": "TRACE",
            "LOG_LEVEL": "ERROR",
            "NIM_JSONL_LOGGING": "1",
            "MAX_SEQUENCE_LENGTH": "99",
        },
        {},
    )
    assert settings.model_dir == Path("/models/one")
    assert (settings.host, settings.port) == ("::", 9000)
    assert (settings.max_batch_size, settings.client_batch_limit) == (3, 2048)
    assert settings.served_names == ("a", "b")
    assert (settings.request_timeout_s, settings.max_length) == (1.5, 99)
    assert (settings.log_level, settings.log_json) == ("DEBUG", True)


def test_arguments_outweigh_the_environment_and_empty_variables_do_not_count() -> None:
    environment = {**FOLDER, "NIM_HTTP_API_PORT": "1", "NIM_TRITON_MAX_BATCH_SIZE": ""}
    settings = settings_from(environment, {"port": 2, "model_dir": Path("/models/two"), "host": None})
    assert (settings.port, settings.model_dir, settings.host) == (2, Path("/models/two"), "127.0.0.1")
    assert settings.client_batch_limit == 2048


def test_no_folder() -> None:
    with pytest.raises(SettingsError, match="give --model-dir or set NIM_CUSTOM_MODEL"):
        settings_from({}, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NIM_TRITON_MAX_BATCH_SIZE", "0"),
        ("MAX_SEQUENCE_LENGTH", "-5"),
        ("NIM_SERVER_MAX_QUEUE_SIZE", "lots"),
        ("NIM_SERVER_BIND_ADDR", "0.0.0.0:http"),
        ("NIM_LOG_LEVEL", "chatty"),
        ("NIM_JSONL_LOGGING", "perhaps"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: ") as error:
        settings_from({**FOLDER, variable: value}, {})
    assert value not in str(error.value).split(": ", 1)[0]


def test_the_key_does_not_show() -> None:
    assert "hunter2" not in repr(settings_from({**FOLDER, "RETUNE_API_KEY": "hunter2"}, {}))


def test_the_limit_of_a_request_is_nims_where_it_is_set() -> None:
    assert settings_from({**FOLDER, "NIM_TRITON_MAX_BATCH_SIZE": "30"}, {}).client_batch_limit == 30


def test_tls_needs_both_files_and_knows_no_more() -> None:
    pair = {"NIM_TLS_CERT_PATH": "/secret/cert", "NIM_TLS_KEY_PATH": "/secret/key"}
    settings = settings_from({**FOLDER, **pair}, {})
    assert (settings.tls_cert_path, settings.tls_key_path) == (Path("/secret/cert"), Path("/secret/key"))
    for name, other in (tuple(pair), tuple(reversed(pair))):
        with pytest.raises(SettingsError, match=f"^{other} is not set"):
            settings_from({**FOLDER, name: "/x", other: ""}, {})
    with pytest.raises(SettingsError, match=r"^NIM_TLS_CA_PATH: ") as error:
        front_settings_from(FrontSettings, {**pair, "NIM_TLS_CA_PATH": "/secret/place"})
    assert "secret" not in str(error.value)
    assert settings_from({**FOLDER, "NIM_TLS_CERT_PATH": "", "NIM_TLS_CA_PATH": ""}, {}).tls_cert_path is None


def test_unknown_variables_are_those_that_change_nothing() -> None:
    known = {name: "1" for names in ENVIRONMENT.values() for name in names} | {"NIM_SERVER_BIND_ADDR": "a:1"}
    given = {**known, "NIM_CACHE_PATH": "/x", "NIM_HTTP_API_PROT": "1", "PATH": "/bin"}
    assert unknown_variables(given) == ["NIM_CACHE_PATH", "NIM_HTTP_API_PROT"]


@pytest.mark.parametrize(
    ("environment", "host", "port", "expected"),
    [
        ({}, None, None, ("127.0.0.1", 8003)),
        ({"NIM_HTTP_API_PORT": "9"}, None, None, ("127.0.0.1", 9)),
        ({"NIM_HTTP_API_PORT": "9"}, "::1", 7, ("::1", 7)),
        ({"NIM_SERVER_BIND_ADDR": "0.0.0.0:9"}, None, None, ("0.0.0.0", 9)),
    ],
)
def test_where_a_command_listens(
    environment: dict[str, str], host: str | None, port: int | None, expected: tuple[str, int]
) -> None:
    assert listen_address(environment, host, port, 8003) == expected


def test_a_port_that_is_none_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^NIM_HTTP_API_PORT: "):
        listen_address({"NIM_HTTP_API_PORT": "http"}, None, None, 8003)


def test_every_setting_with_a_variable_is_described() -> None:
    assert [name for name in ENVIRONMENT if not ServerSettings.model_fields[name].description] == []


def test_the_document_has_the_table_of_all_variables() -> None:
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
    assert text.split("<!-- variables -->\n")[1].split("\n<!-- /variables -->")[0] == variables_table()
