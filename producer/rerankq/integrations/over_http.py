# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""Ask a `rerankq serve`, and meet our own errors where it refuses. Needs httpx, which comes with each adapter's extra.

Every request has a connection of its own: nothing stays open, and any thread, event loop or process may ask.
"""

import asyncio
import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Unpack
from weakref import WeakKeyDictionary

import httpx

from rerankq.contract import traces, wire
from rerankq.contract.errors import (
    BY_NAME,
    BrokerUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    JobFailed,
    RerankError,
)
from rerankq.contract.messages import Documents, RequestOptions, as_seconds, parse_request
from rerankq.settings import ClientSettings
from rerankq.web import STATUS

CONNECT_SECONDS = 5.0
LEAST_SECONDS = 0.001  # as the server takes it
ANSWER_GRACE_SECONDS = 2.0  # a server that gives up in time has this long to say so
_CONNECTIONS: dict[str, Any] = {"limits": httpx.Limits(max_connections=None, max_keepalive_connections=0)}
_WAY_OUT = "is it the address of a `rerankq serve`?"

BY_STATUS: dict[int, type[RerankError]] = {
    **{status: kind for kind, status in STATUS.items()},
    **dict.fromkeys((401, 403, 404), InvalidSettings),
    400: InvalidRequest,
    500: JobFailed,
}
"""What a refusal means where its body does not say: it may be a proxy's. Any other status: nobody is there."""

_BY_TYPE = {name.lower(): kind for name, kind in BY_NAME.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """One document's place in a ranking."""

    index: int
    relevance_score: float | None


class _Face:
    """Where a `rerankq serve` is, and what goes there and comes back."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """
        Args:
            url: its address, with or without `/v1` or `/v1/rerank` at the end.

        Raises:
            InvalidSettings: that is no address, or no key.
        """
        try:
            self._url = httpx.URL(_route(url))
        except httpx.InvalidURL:
            raise InvalidSettings("url: expected an address like http://host:8787") from None
        if not self._url.host:
            raise InvalidSettings("url: expected an address like http://host:8787, got one without a host")
        if api_key and not re.fullmatch(r"[!-~]+", api_key):
            raise InvalidSettings("api_key: expected printable ASCII without spaces or line ends")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def _request(
        self, query: str, documents: Documents, timeout: float | None, options: RequestOptions
    ) -> httpx.Request:
        request = parse_request({"query": query, "documents": documents, **options})
        seconds = max(as_seconds(self._patience if timeout is None else timeout), LEAST_SECONDS)
        longest = seconds + ANSWER_GRACE_SECONDS
        patience = httpx.Timeout(longest, connect=min(longest, CONNECT_SECONDS))
        told = {"Content-Type": "application/json", "X-Timeout-Seconds": f"{seconds:.3f}"}
        if (traceparent := traces.current()) is not None:
            told[traces.HEADER] = traceparent
        return httpx.Request(
            "POST",
            self._url,
            content=wire.encode(request.to_wire()),
            headers={**self._headers, **told},
            extensions={"timeout": patience.as_dict()},
        )

    def _places(self, response: httpx.Response) -> list[Place]:
        """The ranking in a reply.

        Raises:
            RerankError: what the reply says instead.
        """
        body = _read(response)
        if response.status_code != 200:
            raise self._refusal(response, body)
        try:
            return [Place(int(row["index"]), row["relevance_score"]) for row in body["results"]]
        except (KeyError, TypeError, ValueError):
            raise InvalidSettings(f"{self._shown} answers, but not with a ranking; {_WAY_OUT}") from None

    def _refusal(self, response: httpx.Response, body: Any) -> RerankError:
        told: Any = body.get("error") if isinstance(body, dict) else None
        problem: dict[str, Any] = told if isinstance(told, dict) else {}
        status = response.status_code
        kind = _BY_TYPE.get(str(problem.get("type")).replace("_", "")) or BY_STATUS.get(
            status, BrokerUnavailable
        )
        message = problem.get("message") or f"{self._shown} answered HTTP {status}; {_WAY_OUT}"
        return kind(str(message), {"status": status, "field": problem.get("param"), **_retry_after(response)})

    @contextmanager
    def _errors_as_ours(self) -> Generator[None]:
        try:
            yield
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            raise DeadlineExceeded(f"no answer from {self._shown} in time") from None
        except httpx.HTTPError as error:
            reason = type(error).__name__
            raise BrokerUnavailable(f"{self._shown} could not be asked: {reason}; {_WAY_OUT}") from error

    @cached_property
    def _patience(self) -> float:
        return ClientSettings.load().interactive_timeout_seconds

    @property
    def _shown(self) -> str:
        """The address for people: neither user nor password."""
        return f"{self._url.scheme}://{self._url.netloc.decode()}"


class HttpRerankClient(_Face):
    """Asks and waits in threads; what `RerankClient.rerank` takes, without `submit`."""

    def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> list[Place]:
        """The ranking's places, waited for; called off when the wait is given up."""
        request = self._request(query, documents, timeout, options)
        with self._errors_as_ours():
            return self._places(self._http.send(request))

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(**_CONNECTIONS)


class AsyncHttpRerankClient(_Face):
    """Asks and waits in event loops."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        super().__init__(url, api_key)
        self._in_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    async def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> list[Place]:
        """The ranking's places, waited for; called off when the awaiting task is cancelled."""
        request = self._request(query, documents, timeout, options)
        with self._errors_as_ours():
            return self._places(await self._http.send(request))

    @property
    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._in_loop:
            self._in_loop[loop] = httpx.AsyncClient(**_CONNECTIONS)
        return self._in_loop[loop]


def _route(url: str) -> str:
    address = url.strip().rstrip("/")
    if address.endswith("/rerank"):
        return address
    return f"{address}/rerank" if address.endswith(("/v1", "/v2")) else f"{address}/v1/rerank"


def _read(response: httpx.Response) -> Any:
    try:
        return wire.decode(response.content)
    except ValueError:
        return None


def _retry_after(response: httpx.Response) -> dict[str, float]:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:  # none, or a date of some proxy's
        return {}
    return {"retry_after_seconds": seconds} if math.isfinite(seconds) else {}
