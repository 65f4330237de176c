"""What every adapter has: one address, the options of a request, and clients that are made when they are needed.

`redis://…` is the queue, `http://…` a `rerankq serve`. Knows no framework.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from rerankq.aio import AsyncRerankClient
from rerankq.client import RerankClient
from rerankq.contract.errors import InvalidSettings
from rerankq.contract.messages import Count, LongDocuments, RequestOptions
from rerankq.integrations.over_http import AsyncHttpRerankClient, HttpRerankClient, Place
from rerankq.settings import ClientSettings

C = TypeVar("C")


class _Clients:
    """Those of one adapter, made when first needed; a copy of the adapter, or its pickle, takes none along."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Any] = {}

    def __reduce__(self) -> tuple[type["_Clients"], tuple[()]]:
        return _Clients, ()

    def one(self, kind: Callable[..., C], *where: str | None) -> C:
        """The one of this kind that asks there."""
        key = (kind, *where)
        return self._made.get(key) or self._made.setdefault(key, kind(*where))

    def taken(self, kind: type[C]) -> list[C]:
        """All of this kind, which are made anew when they are needed again."""
        keys = [key for key in list(self._made) if key[0] is kind]
        return [client for key in keys if (client := self._made.pop(key, None)) is not None]


class Asks(BaseModel):
    """The fields of every adapter, and how it asks."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # it may be a password

    url: str | None = Field(default=None, repr=False)
    """Where to ask: `redis://…` (`rediss`, `unix`, `sentinel`) is the queue, `http://…` or `https://…` a `rerankq
    serve`; RERANKQ_BROKER_URL, or a running `rerankq up`, when absent."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """What a `rerankq serve` wants to be shown; it is in no dump."""
    top_n: Count | None = None
    """How many to give back; all when absent."""
    max_tokens_per_doc: Count | None = None
    """Read only this many tokens of each."""
    long_documents: LongDocuments | None = None
    """Of one that is longer than the model reads: its beginning (`truncate`), or all of it in `windows`."""
    max_windows_per_doc: Count | None = None
    """Read at most this many windows of each."""
    score_threshold: float | None = None
    """Leave out what scores below this."""
    instruction: str | None = None
    """What makes a document relevant, for models that read one; refused by those that do not."""
    model: str | None = None
    """`name` or `name@revision` of the model to ask, whose workers alone answer; over HTTP a name without a slash that
    is no model's served there is a label, for whichever takes requests without one."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds to wait; RERANKQ_INTERACTIVE_TIMEOUT_SECONDS when absent."""

    _clients: _Clients = PrivateAttr(default_factory=_Clients)

    @model_validator(mode="after")
    def _address_is_one(self) -> "Asks":
        if self._is_over_http:
            HttpRerankClient(*self._face)
        elif self.api_key is not None:
            raise InvalidSettings(
                "api_key: is for an http:// or https:// url; a Redis URL carries its own password"
            )
        elif self.url is not None:
            try:
                ClientSettings.of(self.url, None)
            except InvalidSettings as error:
                told = error.message.removeprefix("RERANKQ_BROKER_URL: ")
                raise InvalidSettings(f"url: {told}; or with http:// for a `rerankq serve`") from error
        return self

    def close(self) -> None:
        """Give back the connections to a queue by which threads have asked; HTTP keeps none."""
        for client in self._clients.taken(RerankClient):
            client.close()

    async def aclose(self) -> None:
        """Give back the connections to a queue by which event loops have asked."""
        for client in self._clients.taken(AsyncRerankClient):
            await client.close()

    def _ranked(self, query: str, texts: Sequence[str]) -> list[Place]:
        """Places of the best, best first."""
        if self._is_over_http:
            client = self._clients.one(HttpRerankClient, *self._face)
        else:
            client = self._clients.one(RerankClient, self.url)
        ranking = client.rerank(query, texts, timeout=self.timeout, **self._options)
        return [Place(row.index, row.relevance_score) for row in ranking]

    async def _aranked(self, query: str, texts: Sequence[str]) -> list[Place]:
        if self._is_over_http:
            client = self._clients.one(AsyncHttpRerankClient, *self._face)
        else:
            client = self._clients.one(AsyncRerankClient, self.url)
        ranking = await client.rerank(query, texts, timeout=self.timeout, **self._options)
        return [Place(row.index, row.relevance_score) for row in ranking]

    @property
    def _is_over_http(self) -> bool:
        return self.url is not None and self.url.strip().lower().startswith(("http://", "https://"))

    @property
    def _face(self) -> tuple[str, str | None]:
        return self.url or "", None if self.api_key is None else self.api_key.get_secret_value()

    @property
    def _options(self) -> RequestOptions:
        given = {
            name: getattr(self, name)
            for name in RequestOptions.__annotations__
            if name in type(self).model_fields
        }
        return cast(RequestOptions, {name: value for name, value in given.items() if value is not None})
