"""A launcher whose engine and Celery worker are small scripts that tell when they are asked to stop."""

import logging
import os
import sys

from rerankq_worker.host.launcher import KeptProcess, Launcher

# Says its name and each signal it gets; ends at the ones it is told to end at.
STUB = """
import os, signal, sys, time
name, *ends_at = sys.argv[1:]
def say(what):
    os.write(1, f"{name} {what}\\n".encode())  # in one piece: two of us write to the same pipe
def on_signal(number, frame):
    told = signal.Signals(number).name
    say(told)
    if told in ends_at:
        time.sleep(0.2)
        say("ended")
        sys.exit(0)
for number in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, on_signal)
say("up")
time.sleep(600)
"""


def stub(name: str, *ends_at: str, code: str = STUB) -> KeptProcess:
    return KeptProcess(name, lambda _: [sys.executable, "-c", code, name, *ends_at], os.environ)


def main(worker_ends_at: list[str]) -> int:
    logging.disable()  # what the stubs say is what counts
    launcher = Launcher(
        [stub("engine", "SIGTERM")],
        [stub("worker", *worker_ends_at)],
        drain_seconds=1,
        stuck_after_seconds=60,
        load_timeout_seconds=60,
    )
    return launcher.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
