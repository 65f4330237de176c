"""`rerankq-worker`: build the parts in order and serve. (Being written: the engine first.)"""

import argparse
import logging
import os
import sys

from rerankq_worker.settings import WorkerSettings


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(prog="rerankq-worker")
    commands = parser.add_subparsers(dest="command", required=True)
    engine = commands.add_parser("engine")
    engine.add_argument("--device", required=True)
    engine.add_argument("--starts", type=int, default=1)
    engine.add_argument("--parent-pid", type=int)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = WorkerSettings.load()
    settings.make_runtime_dir()
    from rerankq_worker import engine_process

    try:
        return engine_process.serve(
            settings, options.device, starts=options.starts, parent_pid=options.parent_pid
        )
    except Exception as error:
        if not type(error).__module__.startswith("rerankq"):
            raise
        print(f"rerankq-worker: {error}", file=sys.stderr)
        return os.EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
