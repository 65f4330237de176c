"""Serve the application until told to stop: uvicorn, with neither its access log nor its name in replies."""

import uvicorn

from rerankq.http.app import create_app
from rerankq.http.settings import HttpSettings

KEEP_ALIVE_SECONDS = 75  # longer than proxies and pools hold an idle connection, to send into it
LEAVE_SECONDS = 30  # what is under way when told to stop may be answered still


def serve(settings: HttpSettings) -> None:
    """Listen until SIGTERM or Ctrl-C."""
    config = uvicorn.Config(
        create_app(settings=settings),
        host=settings.http_host,
        port=settings.http_port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LEAVE_SECONDS,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    uvicorn.Server(config).run()
