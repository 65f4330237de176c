"""What `rerankq-worker doctor` says of a host that was broken for real, and whether its cure mends it."""

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from rerankq.contract.findings import Finding, exit_code
from rerankq.contract.requirements import pip_install
from rerankq.doctor.of_host import HostReport, LauncherHere
from rerankq_worker.doctor import runtime
from rerankq_worker.doctor.report import look_around
from rerankq_worker.host.devices import CPU
from rerankq_worker.host.memory import memory_of
from rerankq_worker.link import health
from rerankq_worker.link.health import Beat, EngineStatus
from rerankq_worker.model.small import materialise
from rerankq_worker.settings import WorkerSettings
from tests import small_disk
from tests.doctor.closed_directory import closed_to_us
from tests.doctor.following import follow, of
from tests.doctor.stand_ins import block, light_libraries, pretend_installed, wheel
from tests.fake_hub import fake_hub

Environment = dict[str, str]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Of a host on which the small model would be served, whose torch is imported in a moment."""
    libraries = light_libraries(tmp_path / "libraries")
    return {
        **os.environ,
        "RERANKQ_MODEL": "small",
        "RERANKQ_RUNTIME_DIR": str(tmp_path / "run"),
        "PYTHONPATH": f"{tmp_path / 'installed'}:{libraries}",
    }


PROGRAM = [sys.executable, "-m", "rerankq_worker", "doctor", "--json"]


def look(
    environment: Environment, directory: Path, program: Sequence[str] = PROGRAM
) -> tuple[list[Finding], int]:
    """What the program says in an environment: in one of its own, where that has other libraries."""
    done = subprocess.run(
        program,
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return [Finding(**each["finding"]) for each in told if "finding" in each], done.returncode


def look_here(environment: Environment, directory: Path) -> tuple[list[Finding], int]:
    """The same in this process, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for path in reversed(environment["PYTHONPATH"].split(os.pathsep)):
            patch.syspath_prepend(path)
        for name in os.environ.keys() | environment.keys():
            patch.setenv(name, environment[name]) if name in environment else patch.delenv(name)
        found = [each for each in look_around() if isinstance(each, Finding)]
    return found, exit_code(found)


def test_a_host_in_order_is_told_so(environment: Environment, tmp_path: Path) -> None:
    found, code = look(environment, tmp_path)

    assert code == 0, found
    assert {each.check for each in found} >= {
        "libraries",
        "libraries.import",
        "transport",
        "model",
        "device",
        "device.dtype",
        "device.memory",
    }


def test_what_a_slow_host_has_not_told_in_time_is_skipped(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libraries" / "torch.py").write_text("import time\ntime.sleep(100)")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with HostReport() as host:
        found = [*host.findings(timeout_seconds=1.0)]

    assert (found[-1].check, found[-1].verdict) == ("host", "skipped")
    assert "libraries.import" not in {each.check for each in found}


def test_a_launcher_that_runs_here_is_heard_of(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "launcher.lock").write_text(str(os.getpid()))
    health.write(health.beat_file(tmp_path / "run", "one"), Beat(pid=0, node="one"))

    with HostReport() as host:
        assert host.launcher(60) == LauncherHere(os.getpid(), is_starting=True)
        assert exit_code(host.findings(60)) == 0


def test_where_models_are_only_fetched_no_library_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image of Compose's `admin`."""
    found = importlib.util.find_spec
    left_out = {"celery", "torch", "transformers"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in left_out else found(name))

    with HostReport() as host:
        (told,) = host.findings(timeout_seconds=5.0)

    assert (told.check, told.verdict) == ("host", "skipped")


@pytest.mark.parametrize(
    ("setting", "value", "check", "verdict"),
    [
        ("RERANKQ_DTYPE", "fp8", "settings", "broken"),
        ("RERANKQ_BULK_SOFT_LIMIT_SECONDS", "500", "settings", "broken"),
        ("RERANKQ_DEVICES", "7", "device", "broken"),
        ("RERANKQ_MODEL", "/nowhere", "model", "broken"),
    ],
)
def test_a_setting_that_cannot_hold_is_mended_by_its_cure(
    environment: Environment, tmp_path: Path, setting: str, value: str, check: str, verdict: str
) -> None:
    found, code = look_here({**environment, setting: value}, tmp_path)
    assert (of(found, check).verdict, code) == (verdict, 2)

    cured = follow(of(found, check).cure, {**environment, setting: value}, tmp_path)

    assert look_here(cured, tmp_path)[1] == 0


@pytest.mark.parametrize(
    "name", ["taken/run", "taken", "n" * 100], ids=["below a file", "a file", "too long"]
)
def test_a_runtime_directory_that_cannot_be_is_told_and_none_is_made(
    environment: Environment, tmp_path: Path, name: str
) -> None:
    (tmp_path / "taken").write_text("")
    environment["RERANKQ_RUNTIME_DIR"] = str(tmp_path / name)

    found, code = look_here(environment, tmp_path)
    assert (of(found, "runtime").verdict, code) == ("broken", 2)
    cured = follow(of(found, "runtime").cure, environment, tmp_path)

    assert look_here(cured, tmp_path)[1] == 0
    assert not (tmp_path / name).is_dir()


def test_a_runtime_directory_below_a_closed_one_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "below").mkdir(parents=True)
    settings = WorkerSettings(runtime_dir=str(closed / "below" / "run"))

    with closed_to_us(closed):
        (found,) = runtime.findings(settings)

    assert (found.verdict, "nothing can be written in" in found.text) == ("broken", True)


@pytest.mark.skipif(not small_disk.is_possible(), reason="no disk of one's own can be made here")
@pytest.mark.parametrize(
    ("model", "settings", "checks", "mended"),
    [
        ("small", ["RERANKQ_RUNTIME_DIR", "RERANKQ_CACHE_DIR"], ["runtime", "model"], "ok"),
        ("some/reranker", ["HF_HUB_CACHE"], ["model"], "warn"),
    ],
    ids=["ours", "the Hub's"],
)
def test_a_directory_on_a_full_disk_gives_way_to_another(
    environment: Environment,
    tmp_path: Path,
    model: str,
    settings: list[str],
    checks: list[str],
    mended: str,
) -> None:
    disk = tmp_path / "disk"
    environment |= {"RERANKQ_MODEL": model, **dict.fromkeys(settings, str(disk))}
    fill_and_look = (
        f"cat /dev/zero 2>/dev/null > {disk}/filler; exec {sys.executable} -m rerankq_worker doctor --json"
    )
    on_full_disk = small_disk.on_small_disk(disk, ["sh", "-c", fill_and_look])

    found, _ = look(environment, tmp_path, on_full_disk)
    assert {of(found, check).verdict for check in checks} == {"broken"}, found
    for check in checks:
        environment = follow(of(found, check).cure, environment, tmp_path)

    found, _ = look(environment, tmp_path, on_full_disk)
    assert {of(found, check).verdict for check in checks} == {mended}, found


def test_a_precision_that_an_engine_does_not_offer_is_taken_out(
    environment: Environment, tmp_path: Path
) -> None:
    wrong = {**environment, "RERANKQ_DTYPE": "int8", "RERANKQ_ENGINE": "sentence-transformers"}
    light_libraries(tmp_path / "libraries").joinpath("sentence_transformers.py").write_text("")
    del wrong["RERANKQ_MODEL"]
    model = tmp_path / "model"
    shutil.copytree(materialise(), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "silu"}))  # not packed
    wrong["RERANKQ_MODEL"] = str(model)
    found, code = look_here(wrong, tmp_path)
    assert (of(found, "device.dtype").verdict, code) == ("broken", 2)

    cured = follow(of(found, "device.dtype").cure, wrong, tmp_path)

    assert look_here(cured, tmp_path)[1] == 0


def offline_pip(directory: Path) -> Environment:
    """pip finds what it is asked for in a directory of ours and puts it where this Python looks."""
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(directory / "wheels"),
        "PIP_TARGET": str(directory / "installed"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def test_a_missing_sentence_transformers_is_installed_by_the_cure(
    environment: Environment, tmp_path: Path
) -> None:
    environment |= {"RERANKQ_ENGINE": "sentence-transformers", **offline_pip(tmp_path)}
    block(tmp_path / "libraries", "sentence_transformers", tmp_path / "installed")
    wheel(tmp_path / "wheels", "sentence-transformers", "6.2.9")

    found, code = look_here(environment, tmp_path)
    assert "No module named 'sentence_transformers'" in of(found, "libraries.import").text
    assert code == 2
    follow(of(found, "libraries.import").cure, environment, tmp_path)

    assert look_here(environment, tmp_path)[1] == 0


def test_sentence_transformers_is_not_missed_where_the_packed_engine_serves(
    environment: Environment, tmp_path: Path
) -> None:
    block(tmp_path / "libraries", "sentence_transformers", tmp_path / "installed")

    assert look_here(environment, tmp_path)[1] == 0


def test_a_clash_with_keras_is_named_and_ended_by_the_cure(environment: Environment, tmp_path: Path) -> None:
    environment |= offline_pip(tmp_path)
    pretend_installed(tmp_path / "libraries", "transformers", "4.57.1")
    pretend_installed(tmp_path / "libraries", "keras", "3.11.3")
    wheel(tmp_path / "wheels", "transformers", "5.20.0")

    found, code = look_here(environment, tmp_path)
    assert "transformers 4 refuses Keras 3.11.3" in of(found, "libraries").text
    assert code == 2
    follow(of(found, "libraries").cure, environment, tmp_path)

    assert look_here(environment, tmp_path)[1] == 0


def test_a_clash_that_only_an_import_tells_has_the_same_cure(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "libraries" / "transformers.py").write_text(
        "raise ValueError('Your currently installed version of Keras is Keras 3, but this is not yet supported in "
        "Transformers. Please install the backwards-compatible tf-keras package with `pip install tf-keras`.')"
    )

    found, code = look_here(environment, tmp_path)
    assert ("Keras 3" in of(found, "libraries.import").text, code) == (True, 2)
    assert of(found, "libraries.import").cure == pip_install("transformers", "sentence-transformers")


def test_a_model_that_is_not_in_the_cache_or_not_whole_is_fetched_by_the_cure(
    environment: Environment, tmp_path: Path
) -> None:
    files = {file.name: file.read_bytes() for file in materialise().iterdir()}
    with fake_hub("some/reranker", files) as hub:
        environment |= {
            "RERANKQ_MODEL": "some/reranker",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        found, code = look(environment, tmp_path)
        assert ("the first start is slow" in of(found, "model").text, code) == (True, 1)
        follow(of(found, "model").cure, environment, tmp_path)

        (weights,) = (tmp_path / "hf").rglob("snapshots/*/model.safetensors")
        os.truncate(weights, 100)
        found, code = look(environment, tmp_path)
        assert ("cut off" in of(found, "model").text, code) == (True, 2)
        follow(of(found, "model").cure, environment, tmp_path)

    assert look(environment, tmp_path)[1] == 0


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_of_the_model_that_is_cut_off_is_named_and_copied_anew(
    environment: Environment, tmp_path: Path, file: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(materialise(), model)
    os.truncate(model / file, 100)

    found, code = look_here({**environment, "RERANKQ_MODEL": str(model)}, tmp_path)

    assert (file in of(found, "model").text, code) == (True, 2)
    assert of(found, "model").cure == "copy or save it there once more"
    shutil.copy(materialise() / file, model)

    assert look_here({**environment, "RERANKQ_MODEL": str(model)}, tmp_path)[1] == 0


def test_a_model_without_room_in_memory_gets_it_in_a_smaller_precision(
    environment: Environment, tmp_path: Path
) -> None:
    memory = memory_of(CPU)
    assert memory is not None
    model = tmp_path / "model"
    shutil.copytree(materialise(), model)
    grow(model / "model.safetensors", by_numbers=int(memory.free * 0.3))
    environment["RERANKQ_MODEL"] = str(model)

    found, code = look_here(environment, tmp_path)
    assert (of(found, "device.memory").verdict, code) == ("broken", 2)
    cured = follow(of(found, "device.memory").cure, environment, tmp_path)

    assert look_here(cured, tmp_path)[1] == 0


def grow(weights: Path, by_numbers: int) -> None:
    """One more tensor, which takes no room on the disk."""
    with weights.open("rb") as file:
        head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        body = file.read()
    end = len(body)
    head["more.weight"] = {"dtype": "F16", "shape": [by_numbers], "data_offsets": [end, end + 2 * by_numbers]}
    text = json.dumps(head).encode()
    weights.unlink()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + body)
    os.truncate(weights, 8 + len(text) + end + 2 * by_numbers)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"out_of_memory": 3}, "3 batches did not fit its memory"),
        ({"state": "loading", "started_monotonic": -300.0}, "it has been loading its model for 3"),
        ({"starts": 4}, "it was started 4 times"),
        ({"pid": 2**22 - 1}, "it has ended"),
    ],
    ids=["out of memory", "slow load", "restarts", "dead"],
)
def test_what_an_engine_here_has_met_is_told(
    environment: Environment, tmp_path: Path, told: dict[str, object], said: str
) -> None:
    now = time.monotonic()
    status = {"state": "ready", "pid": os.getpid(), "device": "cpu0", "boot": "1", "max_batch_tokens": 8192,
              "heartbeat_monotonic": now + 100, "started_monotonic": now, **told}  # fmt: skip
    if "started_monotonic" in told:
        status["started_monotonic"] = now - 300
    (tmp_path / "run").mkdir()
    health.write(tmp_path / "run" / "cpu0.json", EngineStatus(**status))  # pyright: ignore[reportArgumentType]

    found, code = look_here(environment, tmp_path)

    assert (said in of(found, "engine.cpu0").text, code) == (True, 1), found
    if (cure := of(found, "engine.cpu0").cure).startswith("export") and "loading" in said:
        assert look_here(follow(cure, environment, tmp_path), tmp_path)[1] == 0


def test_a_start_of_long_ago_is_no_trouble_of_now(environment: Environment, tmp_path: Path) -> None:
    now = time.monotonic()
    (tmp_path / "run").mkdir()
    status = EngineStatus(state="ready", pid=os.getpid(), device="cpu0", boot="1", starts=4,
                          started_monotonic=now - 7200, heartbeat_monotonic=now + 100)  # fmt: skip
    health.write(tmp_path / "run" / "cpu0.json", status)

    assert look_here(environment, tmp_path)[1] == 0


UUID = "GPU-00000000-0000-0000-0000-000000000000"


class Nvml(SimpleNamespace):
    """NVIDIA's library on a host with one card, as far as it is asked."""

    def __init__(self, free: int = 70_000_000_000, reasons: int = 0) -> None:
        card = object()
        super().__init__(
            NVMLError=RuntimeError,
            NVML_TEMPERATURE_GPU=0,
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda _: card,
            nvmlDeviceGetHandleByUUID=lambda _: card,
            nvmlDeviceGetUUID=lambda _: UUID,
            nvmlDeviceGetName=lambda _: "A Card",
            nvmlSystemGetDriverVersion=lambda: "570.1",
            nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=80_000_000_000, free=free),
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: reasons,
            nvmlDeviceGetTemperature=lambda *_: 91,
            nvmlDeviceGetComputeRunningProcesses=lambda _: [SimpleNamespace(pid=4711)],
        )


@pytest.fixture
def card(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a card into this host, with a torch that was built for it."""

    def put(*, cuda: str | None = "13.0", is_seen: bool = True, **told: int) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", Nvml(**told))
        (tmp_path / "libraries" / "torch.py").write_text(
            f"class version:\n    cuda = {cuda!r}\n"
            f"class cuda:\n    is_available = staticmethod(lambda: {is_seen})\n"
        )

    environment.pop("CUDA_VISIBLE_DEVICES", None)
    return put


def test_a_card_in_order_is_told_with_its_driver(
    environment: Environment, tmp_path: Path, card: Callable[..., None]
) -> None:
    card()

    found, code = look_here(environment, tmp_path)

    assert code == 0, found
    assert "A Card, driver 570.1, torch is built for CUDA 13.0" in of(found, "device").text
    assert of(found, "device.dtype").text == "gpu0 computes in fp16"
    assert of(found, "device.throttling").text == "gpu0: none, 91 °C"


@pytest.mark.parametrize(
    ("broken", "check", "said", "code"),
    [
        ({"is_seen": False}, "device", "cannot use it", 2),
        ({"free": 600_000_000}, "device.memory", "others have it (pid 4711)", 2),
    ],
    ids=["driver too old", "memory taken"],
)
def test_a_card_that_cannot_be_used_gives_way_to_the_cpu(
    environment: Environment,
    tmp_path: Path,
    card: Callable[..., None],
    broken: dict[str, object],
    check: str,
    said: str,
    code: int,
) -> None:
    card(**broken)

    found, got = look_here(environment, tmp_path)
    assert (said in of(found, check).text, got) == (True, code), found
    cured = follow(of(found, check).cure, environment, tmp_path)

    assert look_here(cured, tmp_path)[1] == 0


def test_a_torch_without_cuda_beside_a_card_is_told(
    environment: Environment, tmp_path: Path, card: Callable[..., None]
) -> None:
    card(cuda=None, is_seen=False)

    found, code = look_here(environment, tmp_path)

    assert (of(found, "device").cure, code) == ("pip install --force-reinstall torch", 2)


@pytest.mark.parametrize(("reasons", "code"), [(0x20, 1), (0x40, 1), (0x80, 1), (0x04, 0), (0x01, 0)])
def test_a_card_is_throttled_by_what_nobody_chose(
    environment: Environment, tmp_path: Path, card: Callable[..., None], reasons: int, code: int
) -> None:
    card(reasons=reasons)

    assert look_here(environment, tmp_path)[1] == code


def test_fp32_on_a_card_is_told_and_taken_out(
    environment: Environment, tmp_path: Path, card: Callable[..., None]
) -> None:
    card()
    environment["RERANKQ_DTYPE"] = "fp32"

    found, code = look_here(environment, tmp_path)
    assert (of(found, "device.dtype").verdict, code) == ("warn", 1)
    cured = follow(of(found, "device.dtype").cure, environment, tmp_path)

    assert look_here(cured, tmp_path)[1] == 0
