"""Settings are read from where they should be, and a wrong one is named with its way out."""

from pathlib import Path

import pytest

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.setting_sources import effective
from rerankq.contract.variables import OUTSIDE_THE_CLASSES, VARIABLES
from rerankq.http.settings import HttpSettings
from rerankq.settings import ClientSettings
from rerankq_worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("RERANKQ_MAX_BATCH_PAIR", "RERANKQ_MAX_BATCH_PAIRS"), ("RERANKQ_BROKER_URI", "RERANKQ_BROKER_URL")],
)
@pytest.mark.parametrize("cls", [ClientSettings, WorkerSettings])
def test_a_misspelt_variable_is_named_with_what_was_meant(
    cls: type[ClientSettings | WorkerSettings], misspelt: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(misspelt, "16")

    with pytest.raises(InvalidSettings, match=f"no setting is called {misspelt}; did you mean {meant}"):
        cls.load()


def test_a_setting_of_before_is_refused_with_what_holds_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_MEMORY_FRACTION", "0.9")

    with pytest.raises(
        InvalidSettings, match=r"no setting any more: work is refused when .* 85 % full; take it out"
    ):
        ClientSettings.load()


def test_a_misspelt_variable_in_dotenv_is_named_too() -> None:
    Path(".env").write_text("RERANKQ_DEVICE=cpu\n")

    with pytest.raises(InvalidSettings, match="RERANKQ_DEVICE; did you mean RERANKQ_DEVICES"):
        WorkerSettings.load()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("# für später\n".encode("latin-1"), "expected UTF-8, got another byte at 3"),
        (None, "Permission denied"),
    ],
    ids=["latin-1", "unreadable"],
)
def test_a_dotenv_that_cannot_be_read_is_named(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_bytes(content or b"")
    if content is None:
        monkeypatch.setattr("dotenv.main.open", refuse_to_open, raising=False)  # root may read any file

    with pytest.raises(InvalidSettings, match=f"{tmp_path}/.env cannot be read: {reason}") as caught:
        ClientSettings.load()
    assert "\n" not in str(caught.value)


def refuse_to_open(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_dotenv_of_an_editor_on_windows_is_read() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfRERANKQ_MODEL=from-dotenv\r\n")

    settings = WorkerSettings.load()
    assert settings.model == "from-dotenv"
    assert effective(settings)["RERANKQ_MODEL"] == {"value": "from-dotenv", "source": ".env"}


def test_a_line_of_dotenv_that_cannot_be_read_is_named_and_no_default_taken() -> None:
    Path(".env").write_text("ANOTHERS='open\nRERANKQ_BROKER_URL=\"redis://:secret@redis/0\n")

    with pytest.raises(InvalidSettings, match="line 2 cannot be read") as refused:
        WorkerSettings.load()

    assert "secret" not in str(refused.value)


def test_a_secrets_directory_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_SECRETS_DIR", "/nowhere")

    with pytest.raises(InvalidSettings, match="RERANKQ_SECRETS_DIR: expected a directory, got /nowhere"):
        WorkerSettings.load()


def test_a_virtual_environment_called_dotenv_is_no_settings_file() -> None:
    Path(".env").mkdir()

    assert WorkerSettings.load().max_batch_pairs == 32


def test_a_secret_that_is_no_text_is_named_with_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rerankq_model").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("RERANKQ_SECRETS_DIR", str(tmp_path))

    with pytest.raises(InvalidSettings, match=f"a secret in {tmp_path}, .* cannot be read: expected UTF-8"):
        WorkerSettings.load()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host/0",
        "redis://me:hun@ter:2;@host?db=1",
        "sentinel://:hunter2@a;sentinel://:hunter2@b",
    ],
)
def test_settings_are_shown_without_any_of_a_password(url: str) -> None:
    shown = effective(ClientSettings(broker_url=url))["RERANKQ_BROKER_URL"]["value"]  # pyright: ignore[reportArgumentType]

    assert "hun" not in shown
    assert "ter" not in shown
    assert "host" in shown or "@b" in shown


def test_each_side_accepts_the_others_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_MAX_BATCH_PAIRS", "16")
    monkeypatch.setenv("RERANKQ_MAX_BULK_JOBS", "7")

    assert ClientSettings.load().max_bulk_jobs == 7
    assert WorkerSettings.load().max_batch_pairs == 16


def test_the_environment_wins_over_dotenv_and_dotenv_over_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("rerankq_broker_url", "rerankq_result_url", "rerankq_model"):
        (secrets / name).write_text("redis://from-secret/0" if "url" in name else "from-secret")
    monkeypatch.setenv("RERANKQ_SECRETS_DIR", str(secrets))
    Path(".env").write_text("RERANKQ_RESULT_URL=redis://from-dotenv/0\nRERANKQ_MODEL=from-dotenv\n")
    monkeypatch.setenv("RERANKQ_MODEL", "from-env")

    settings = WorkerSettings.load()

    assert settings.broker_url.get_secret_value() == "redis://from-secret/0"
    assert settings.effective_result_url == "redis://from-dotenv/0"
    assert settings.model == "from-env"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RERANKQ_MAX_BATCH_PAIRS", "0", "RERANKQ_MAX_BATCH_PAIRS: "),
        ("RERANKQ_DTYPE", "fp8", "RERANKQ_DTYPE: expected .*, got 'fp8'"),
        ("RERANKQ_LOG", "a\nb", r"RERANKQ_LOG: expected 'text' or 'json', got 'a\\nb'"),
        ("RERANKQ_BROKER_URL", "amqp://user:hunter2@host", "RERANKQ_BROKER_URL: expected a URL"),
        (
            "RERANKQ_RESULT_URL",
            "redis://:hunter2@host?timeout=3",
            "RERANKQ_RESULT_URL: expected no timeout in the URL",
        ),
        ("RERANKQ_BROKER_URL", "redis://:hunter2#@host", "RERANKQ_BROKER_URL: expected a URL without #"),
        ("RERANKQ_MAX_BATCH_TOKENS", "512", r"at least RERANKQ_MAX_LENGTH_TOKENS \(1024\), got 512"),
        (
            "RERANKQ_BULK_SOFT_LIMIT_SECONDS",
            "500",
            r"at most RERANKQ_BULK_HARD_LIMIT_SECONDS \(90\), got 500",
        ),
    ],
)
def test_a_value_out_of_bounds_is_named_in_one_line_without_its_secret(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings, match=message) as caught:
        WorkerSettings.load()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_engine_that_nobody_would_ask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_INTERACTIVE_WORKERS", "0")
    assert WorkerSettings.load().interactive_workers == 0

    monkeypatch.setenv("RERANKQ_BULK_WORKERS", "0")
    with pytest.raises(InvalidSettings, match="got 0 and 0; for engines alone unset both"):
        WorkerSettings.load()


def test_a_soft_limit_nobody_set_follows_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_INTERACTIVE_HARD_LIMIT_SECONDS", "3")

    settings = WorkerSettings.load()

    assert settings.time_limits("interactive") == (2.0, 3.0)
    assert settings.time_limits("bulk") == (60.0, 90.0)


def test_an_interactive_job_has_as_long_as_a_caller_waits_by_default() -> None:
    soft_limit_seconds, _ = WorkerSettings.load().time_limits("interactive")

    assert soft_limit_seconds >= ClientSettings.load().interactive_timeout_seconds


def test_secrets_are_masked_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_BROKER_URL", "redis://:hunter2@host/0")

    assert "hunter2" not in repr(ClientSettings.load())


def test_the_known_variables_are_those_of_the_classes() -> None:
    fields = {
        f"RERANKQ_{name.upper()}" for cls in (HttpSettings, WorkerSettings) for name in cls.model_fields
    }

    assert fields | OUTSIDE_THE_CLASSES == VARIABLES


@pytest.mark.parametrize("cls", [ClientSettings, WorkerSettings])
def test_every_setting_says_what_it_does(cls: type[ClientSettings | WorkerSettings]) -> None:
    silent = [name for name, field in cls.model_fields.items() if not field.description]

    assert silent == []
