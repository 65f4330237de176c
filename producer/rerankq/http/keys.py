"""Who may ask: whoever shows a key; where there is none, this machine's own programs, and no web page in its browser.

Keys are compared in constant time, and read anew where `.env` or their file among the secrets has changed.
"""

import hmac
import ipaddress
import logging
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.settings import DOTENV, secrets_directory
from rerankq.http.errors import Refusal
from rerankq.http.settings import HttpSettings, is_loopback

OPEN_PATHS = frozenset({"/", "/health", "/health/ready", "/openapi.json"})
"""What anybody may see: the page, how the service is, what it can be asked."""

VARIABLE = "RERANKQ_HTTP_KEYS"
LOOK_SECONDS = 1.0  # how often the files are looked at

log = logging.getLogger("rerankq.http")


class Keys:
    """Which keys open."""

    def __init__(self, settings: HttpSettings) -> None:
        self._keys = settings.keys
        self._is_ours_to_renew = _keys_in_force() == self._keys  # and not given by a program
        self._files, self._looked_at = _files(), time.monotonic()

    def in_force(self) -> tuple[str, ...]:
        """The keys that open; those of before where what has come in their place cannot be read, or is none."""
        if self._is_ours_to_renew and time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at, files = time.monotonic(), _files()
            if files != self._files:
                self._files, keys = files, _keys_in_force()
                if keys:
                    self._keys = keys
                log.info("keys read anew: %d in force", len(self._keys))
        return self._keys

    def opens(self, shown: list[bytes]) -> bool:
        """Whether one of these does."""
        ours = [each.encode() for each in self.in_force()]
        return any(
            [hmac.compare_digest(key, each) for each in ours for key in shown]  # noqa: C419 - all, whatever came of one
        )


def refuse_strangers(request: Request, keys: Keys) -> None:
    """Let a request in.

    Raises:
        Refusal: it shows no key of ours; or we have none, and it comes from elsewhere.
    """
    if request.scope["path"].removeprefix(request.scope.get("root_path", "")) in OPEN_PATHS:
        return
    if not keys.in_force():
        _refuse_from_elsewhere(request)
    elif not keys.opens(_shown(request)):
        message = "invalid api key; send one as `Authorization: Bearer …` or as `Api-Key: …`"
        raise Refusal(401, "invalid_api_key", message, None, {"WWW-Authenticate": "Bearer"})


def _shown(request: Request) -> list[bytes]:
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    shown = [key.strip() if kind.lower() == "bearer" else ""]
    shown += [request.headers.get(name, "") for name in ("api-key", "x-api-key")]
    return [each.encode("latin-1") for each in shown if each]  # as it came


def _refuse_from_elsewhere(request: Request) -> None:
    """Without a key, a web page must not reach us by the browser that shows it, nor by a name that it points here."""
    told = request.headers
    origin, host = told.get("origin"), told.get("host")
    is_for_here = host is None or is_loopback(_host_of(host))
    is_of_here = origin is None or origin.partition("://")[2] == host
    is_of_a_page_elsewhere = told.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if not is_for_here or not is_of_here or is_of_a_page_elsewhere or _is_remote(request):
        message = "where no key is asked for, only programs of the same machine are answered, at its loopback address"
        raise Refusal(403, "forbidden", message)


def _host_of(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _is_remote(request: Request) -> bool:
    try:
        ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:  # a unix socket, a test
        return False
    return request.client is not None and not is_loopback(request.client.host)


def _keys_in_force() -> tuple[str, ...]:
    try:
        return HttpSettings.load().keys
    except InvalidSettings as error:
        log.warning("keys cannot be read: %s", error.message)
        return ()


def _files() -> list[tuple[int, int, int] | None]:
    """What tells whether a file that may hold keys is another one by now."""
    try:
        secrets = sorted(Path(secrets_directory() or os.devnull).glob("*"))
    except (InvalidSettings, OSError):
        secrets = []
    named = [file for file in secrets if file.name.upper() == VARIABLE]
    return [_signature(file) for file in (Path(DOTENV), *named)]


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns
