"""What an application may depend on: the clients, and the fakes of its tests, are a `Reranker` or an `AsyncReranker`.

    def search(query: str, reranker: Annotated[Reranker, Depends(get_reranker)]) -> list[str]: ...

What each method does stands at the clients'.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self, Unpack

from rerankq.contract.messages import Documents, Lane, Ranking, RequestOptions

if TYPE_CHECKING:
    from rerankq.aio import AsyncJob
    from rerankq.client import Job
    from rerankq.contract.heartbeats import WorkerStatus


class Reranker(Protocol):
    """What asks and waits in threads: `RerankClient`, or a fake."""

    def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking: ...
    def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> "Job": ...
    def job(self, job_id: str) -> "Job": ...
    def workers(self) -> "Sequence[WorkerStatus]": ...
    def lanes(self) -> dict[Lane, int]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class AsyncReranker(Protocol):
    """What asks and waits in an event loop: `AsyncRerankClient`, or a fake."""

    async def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking: ...
    async def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> "AsyncJob": ...
    def job(self, job_id: str) -> "AsyncJob": ...
    async def workers(self) -> "Sequence[WorkerStatus]": ...
    async def lanes(self) -> dict[Lane, int]: ...
    async def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
