"""Settings that are wrong: named with where they come from, and mended by what the doctor says to type."""

import os
from pathlib import Path

import pytest

from rerankq.cli.doctor import _of_http
from rerankq.contract.findings import exit_code
from rerankq.doctor import of_settings
from rerankq.http.settings import HttpSettings
from tests.doctor.following import follow


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RERANKQ_BROKER_URI", "redis://127.0.0.1:1/0"),
        ("RERANKQ_NONSENSE_OF_MINE", "1"),
        ("RERANKQ_MEMORY_FRACTION", "0.9"),
        ("RERANKQ_MAX_BULK_JOBS", "0"),
        ("RERANKQ_BROKER_URL", "amqp://user:hunter2@host"),
        ("RERANKQ_HTTP_PORT", "-1"),
        ("RERANKQ_SECRETS_DIR", "/nowhere"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_wrong_setting_is_mended_by_its_cure(
    name: str, value: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "environment":
        monkeypatch.setenv(name, value)
    elif name == "RERANKQ_SECRETS_DIR":
        pytest.skip("is read from the environment alone")
    else:
        Path(".env").write_text(f"OTHER=1\nexport {name}={value}\n")

    while code := exit_code(found := [*of_settings.findings([HttpSettings.load])]):
        assert code == 2
        assert f"(from {place})" in found[0].text
        assert "hunter2" not in str(found)
        after = follow(found[0].cure, dict(os.environ), Path.cwd())
        for variable in {*os.environ, *after}:
            if variable.startswith("RERANKQ_"):
                monkeypatch.delenv(variable, raising=False)
                if variable in after:
                    monkeypatch.setenv(variable, after[variable])


def test_every_misspelt_setting_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_BROKER_URI", "x")
    monkeypatch.setenv("RERANKQ_MODELL", "x")

    found = [*of_settings.findings()]

    assert [finding.verdict for finding in found] == ["broken", "broken"]


def test_a_setting_that_two_places_say_otherwise_is_told_and_taken_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RERANKQ_REDIS_TIMEOUT_SECONDS", raising=False)  # the suite's own
    monkeypatch.setenv("RERANKQ_MAX_BULK_JOBS", "7")
    Path(".env").write_text("RERANKQ_MAX_BULK_JOBS=8\n")

    found = [*of_settings.findings()]
    assert exit_code(found) == 1
    assert "RERANKQ_MAX_BULK_JOBS" not in follow(found[0].cure, dict(os.environ))
    monkeypatch.delenv("RERANKQ_MAX_BULK_JOBS")

    (finding,) = of_settings.findings()
    assert finding.text == "set are RERANKQ_MAX_BULK_JOBS (.env)"


def test_a_face_that_contradicts_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKQ_HTTP_HOST", "0.0.0.0")

    (finding,) = of_settings.findings([_of_http])

    assert finding.verdict == "broken"
    assert finding.cure.startswith("set RERANKQ_HTTP_KEYS")
