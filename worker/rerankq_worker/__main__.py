"""`rerankq-worker`: build the parts in order, serve.

Each command imports what it needs when it runs, so that `health` costs milliseconds and only the engine pays for
torch.
"""

import argparse
import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rerankq.contract.closed_pipes import ends_quietly
from rerankq_worker.model_commands.verbs import add_verbs

DESCRIPTION = """\
Serve rerank jobs from Redis: per device one engine process that holds the model, and light Celery workers
around it. Without a command: start them, restart what dies, drain on SIGTERM.

Settings are variables RERANKQ_... in the environment, in .env or in the secrets directory; `settings` shows
them. The ones most people turn: RERANKQ_BROKER_URL, RERANKQ_MODEL, RERANKQ_DEVICES.
"""
EPILOG = """\
exit codes: 0 in good order; 1 health: not in service, verify: scores are off, doctor: a warning; 2 doctor:
broken; 69 the model hub is away; 70 an engine was stuck; 71 its device was lost; 75 another process
serves its device; 78 configured wrongly (one line says how)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    with ends_quietly():
        return _run(_parser().parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("rerankq", "_")):
            raise
        _tell(
            f"{error.name} is not installed in this Python; `pip install 'rerankq[worker]'` brings what a worker needs"
        )
        return os.EX_CONFIG
    except Exception as error:
        if not _is_for_the_operator(error):
            raise
        _tell(error)
        return getattr(error, "exit_code", os.EX_CONFIG)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rerankq-worker",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_serve)
    parser.add_argument(
        "--engine-only",
        action="store_true",
        help="start the engines alone, for Celery workers under a process manager of your own",
    )
    commands = parser.add_subparsers(title="commands", metavar="")
    health = _add(
        commands,
        "health",
        _health,
        "say how the engines, the Celery workers of this host and Redis are; exit 0 when all serve, else 1",
    )
    which = health.add_mutually_exclusive_group()
    which.add_argument("--ready", action="store_true", help="whether jobs are answered here; the default")
    which.add_argument(
        "--live", action="store_true", help="the same without Redis, whose outage a restart would not end"
    )
    settings = _add(commands, "settings", _settings, "print every setting, its value and where it came from")
    settings.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    doctor = _add(
        commands,
        "doctor",
        _doctor,
        "say what is wrong on this host, with its cure; `rerankq doctor` asks this, and Redis and the workers as well",
    )
    doctor.add_argument("--json", action="store_true", help="a JSON object a line, for programs")
    add_verbs(partial(_add, commands))
    engine = _add(commands, "engine", _engine, "run one device's engine in this process (the launcher does)")
    engine.add_argument(
        "--device", required=True, help="cpu0, gpu0, ...: names its socket and its status file"
    )
    engine.add_argument(
        "--starts", type=int, default=1, help="the how-manieth start this is, for the metrics"
    )
    engine.add_argument("--parent-pid", type=int, help="stop when this process is gone")
    return parser


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    command.set_defaults(run=run)
    return command


def _serve(options: argparse.Namespace) -> int:
    from rerankq.contract.log.process import speak_as
    from rerankq_worker.host import launcher, metrics
    from rerankq_worker.host.children_log import ChildrenLog
    from rerankq_worker.host.devices import chosen_devices
    from rerankq_worker.model.files import choose_engine, find_model
    from rerankq_worker.queue import redis_health
    from rerankq_worker.settings import WorkerSettings

    os.environ.update({} if sys.stderr.isatty() else {"TQDM_DISABLE": "1"})  # a log wants lines
    settings = WorkerSettings.load()
    handler = speak_as("launcher", settings.log, settings.log_level)
    children = ChildrenLog(handler)
    devices = chosen_devices(settings.devices)
    if settings.engine_factory == WorkerSettings.model_fields["engine_factory"].default:
        # Refused here in a moment, and fetched here once: each engine would take seconds to come to it.
        found = find_model(settings.model, settings.model_revision, settings.offline)
        choose_engine(found.path, settings.engine)
    if not options.engine_only:
        for line in redis_health.trouble(settings):  # a wrong password ends us; an outage is waited out
            logging.warning("%s yet", line)
    with launcher.sole_launcher(settings.make_runtime_dir()):
        processes = launcher.launcher_for(settings, devices, engine_only=options.engine_only, log=children)
        logging.info("time limits: %s", "; ".join(_limits_in_words(settings)))
        if settings.metrics_port is not None:
            metrics.serve(settings, devices)
        if options.engine_only:
            for device in devices:
                logging.info("for Celery workers: RERANKQ_ENGINE_SOCKET=%s", settings.socket_of(device.name))
        exit_code = processes.run()
        children.finish()
        return exit_code


def _tell(error: Exception | str) -> None:
    """In the log, where there is one; to whoever typed the command."""
    if logging.getLogger().handlers:
        logging.getLogger(__package__).critical("%s", error)
    else:
        from rerankq.contract.log.lines import in_one_line

        print(in_one_line(f"rerankq-worker: {error}"), file=sys.stderr)


def _limits_in_words(settings: Any) -> list[str]:
    from rerankq.contract.messages import LANES

    limits = {lane: settings.time_limits(lane) for lane in LANES}
    return [f"{lane} {soft:g} s, killed after {hard:g} s" for lane, (soft, hard) in limits.items()]


def _engine(options: argparse.Namespace) -> int:
    from rerankq.contract.log.process import speak_as
    from rerankq_worker.engine_process import process as engine_process
    from rerankq_worker.settings import WorkerSettings

    settings = WorkerSettings.load()
    speak_as(f"engine {options.device}", settings.log, settings.log_level)
    faulthandler.register(signal.SIGUSR1)  # needs no interpreter, which a pass may not give back
    settings.make_runtime_dir()
    return engine_process.serve(
        settings, options.device, starts=options.starts, parent_pid=options.parent_pid
    )


def _health(options: argparse.Namespace) -> int:
    from rerankq_worker.link import health
    from rerankq_worker.settings import WorkerSettings

    settings = WorkerSettings.load()
    statuses, beats = health.engines(settings.runtime_path), health.beats(settings.runtime_path)
    for status in statuses:
        engine = f", {status.engine}" if status.engine and status.state in health.IN_SERVICE else ""
        print(f"{status.device} {status.state}{engine}")
    for beat in beats:
        print(f"{beat.node} {beat.state}")
    if not statuses:
        print(f"broken: no engine has reported in {settings.runtime_path}")
    alive: tuple[str, ...] = ("ready", "cut off") if options.live else ("ready",)
    is_healthy = health.is_healthy(statuses) and all(beat.state in alive for beat in beats)
    if not options.live:
        from rerankq_worker.queue import redis_health

        for line in redis_health.trouble(settings):
            print(line)
            is_healthy = False
    return 0 if is_healthy else 1


def _settings(options: argparse.Namespace) -> int:
    from rerankq.contract.setting_sources import effective
    from rerankq_worker.settings import WorkerSettings

    found = effective(WorkerSettings.load())
    if options.json:
        print(json.dumps(found))
        return 0
    width = max(map(len, found))
    for name, setting in found.items():
        value = "" if setting["value"] is None else setting["value"]
        print(f"{name:{width}}  {value}  ({setting['source']})")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rerankq_worker.doctor.report import print_report

    return print_report(as_json=options.json)


def _is_for_the_operator(error: Exception) -> bool:
    """Our own errors say in one line what to do; of any other the traceback is wanted."""
    return type(error).__module__.startswith(("rerankq.", "rerankq_worker."))


if __name__ == "__main__":
    sys.exit(main())
