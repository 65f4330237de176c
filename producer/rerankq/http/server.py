"""Serve the application until told to stop: uvicorn, with neither its access log nor its name in replies."""

import asyncio
import errno
import re
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rerankq.http.app import create_app
from rerankq.http.settings import HttpSettings
from rerankq.local.failure import Unavailable

KEEP_ALIVE_SECONDS = 75  # longer than proxies and pools hold an idle connection, to send into it
LEAVE_SECONDS = 30  # what is under way when told to stop may be answered still
MAX_HEAD_BYTES = 65_536  # a request's line and headers
HEAD_WITHIN_SECONDS = 10.0
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


def serve(settings: HttpSettings, on_start: Callable[[str], None]) -> None:
    """Listen until SIGTERM or Ctrl-C, then answer what is under way.

    Args:
        on_start: told the address, with the port that it has come to.

    Raises:
        InvalidSettings: it would listen beyond loopback and ask for no key.
        Unavailable: the address is taken, or is none of this machine's.
    """
    settings.refuse_open_doors()
    server = uvicorn.Server(configured(settings))

    def leave(_signal_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True  # raising would break off whatever comes before uvicorn's own handler

    signal.signal(signal.SIGTERM, leave)  # before anybody can see that it listens
    listener = _listen(settings.http_host, settings.http_port)
    on_start(_url(settings.http_host, listener))
    server.run(sockets=[listener])


def configured(settings: HttpSettings) -> uvicorn.Config:
    """How uvicorn serves us."""
    return uvicorn.Config(
        create_app(settings=settings),
        http=BoundedHttp,
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=LEAVE_SECONDS,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which waits for ever for headers of any length, with a bound to both.

    Java's HttpClient offers to go on in HTTP/2 with every request (`Upgrade: h2c`), and uvicorn's then loses its body:
    here no such offer is heard.
    """

    _head_bytes = 0
    _is_at_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] - as uvicorn narrows it
        super().connection_made(transport)
        self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(_without_upgrade(data) if self._is_at_head else data)
        self._head_bytes = 0 if self._head_timer is None else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"expected at most {MAX_HEAD_BYTES:,} bytes of headers")

    def on_headers_complete(self) -> None:
        self._is_at_head = False
        self._await_nothing()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_at_head = True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_nothing()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WITHIN_SECONDS, self.transport.close)

    def _await_nothing(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _without_upgrade(data: bytes) -> bytes:
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, port), family=family, dualstack_ipv6=host == "::", backlog=2048
        )
    except OSError as error:
        taken = f"port {port} of {host or 'every address'} is taken; choose another with --port"
        other = f"cannot listen at {host} port {port}: {error.strerror}"
        raise Unavailable(taken if error.errno == errno.EADDRINUSE else other) from None
    # asyncio sets it on sockets that were made for TCP by name, which create_server's are not; without it a reply's
    # body waits 40 ms for word that its head has come. What is accepted inherits it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    """Where a program of this machine finds it."""
    anywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    shown = anywhere.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{listener.getsockname()[1]}"
