"""The address file of `rerankq up`: found while it is held, trusted only where nobody else can have written it."""

import subprocess
import sys
from pathlib import Path

import pytest

from rerankq.running import address_file, announced, running_broker
from rerankq.settings import ClientSettings

URL = "redis://127.0.0.1:7/0"


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def broker() -> str:
    return ClientSettings.load().broker_url.get_secret_value()


def test_a_client_without_a_url_takes_the_address_that_is_announced():
    with announced(URL) as is_told:
        assert is_told
        assert broker() == URL

    assert running_broker() is None
    assert broker() == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize("variable", ["RERANKQ_BROKER_URL", "RERANKQ_RESULT_URL"])
def test_a_url_of_ones_own_goes_first(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "redis://127.0.0.1:9/0")

    with announced(URL):
        assert broker() != URL


def test_the_second_to_come_up_leaves_the_first_its_file():
    with announced(URL):
        with announced("redis://127.0.0.1:8/0") as is_told:
            assert not is_told
        assert running_broker() == URL


def test_what_a_killed_one_left_behind_is_no_address():
    code = (
        f"import os; from rerankq.running import announced\nwith announced({URL!r}): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)

    assert address_file().read_text() == URL
    assert running_broker() is None
    with announced(URL) as is_told:
        assert is_told


def test_the_file_is_of_this_user_alone():
    with announced(URL):
        assert address_file().stat().st_mode & 0o777 == 0o600
        address_file().chmod(0o644)

        assert running_broker() is None


def test_a_link_is_not_followed(tmp_path: Path):
    with announced(URL):
        address_file().rename(tmp_path / "elsewhere")
        address_file().symlink_to(tmp_path / "elsewhere")

        assert running_broker() is None
