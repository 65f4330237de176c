"""The `rerankq` command: a thin coat over the client. Loads what a command needs only when it runs."""

import sys
from io import TextIOWrapper

from rerankq.cli.failures import report
from rerankq.contract.errors import RerankError


def main() -> None:
    """Run the command and end the process with its exit code.

    0 done; 1 the job failed; 2 wrong usage or input; 3 nobody there to answer; 130 interrupted; 141 nobody reads it.
    """
    from rerankq.cli.app import app
    from rerankq.contract.closed_pipes import ends_quietly

    for stream in (sys.stdout, sys.stderr):
        if "--json" not in sys.argv and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal has no arrow, the line counts
    with ends_quietly():
        try:
            app()
        except RerankError as error:
            sys.exit(report(error, as_json="--json" in sys.argv))
