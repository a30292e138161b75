"""Where a setting comes from, and what is said of one that does not work."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets_pkg.nim.settings import SettingsError, settings_from

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
    assert settings.client_batch_limit == 30


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
