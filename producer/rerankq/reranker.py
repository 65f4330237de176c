"""What an application may depend on: the clients, and the fakes of its tests, are a `Reranker` or an `AsyncReranker`.

def search(query: str, reranker: Annotated[Reranker, Depends(get_reranker)]) -> list[str]:
    ...
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self, Unpack

from rerankq.contract.messages import Documents, Lane, Ranking, RequestOptions

if TYPE_CHECKING:
    from rerankq.answers import JobStatus
    from rerankq.contract.heartbeats import WorkerStatus


class Promise(Protocol):
    """Of one ranking."""

    @property
    def job_id(self) -> str:
        """By which any process picks it up again."""
        ...

    def result(self, timeout: float | None = None) -> Ranking:
        """The ranking, waited for: for `timeout` seconds, or for as long as it takes."""
        ...

    def status(self) -> "JobStatus":
        """Where the job stands."""
        ...

    def progress(self) -> tuple[int, int]:
        """Documents scored so far, and documents in all."""
        ...

    def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        ...

    def cancel(self) -> None:
        """Call the job off."""
        ...


class Reranker(Protocol):
    """What asks and waits in threads: `RerankClient`, or a fake."""

    def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """The ranking, waited for."""
        ...

    def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> Promise:
        """A promise of the ranking."""
        ...

    def job(self, job_id: str) -> Promise:
        """The promise of a job that was submitted elsewhere or earlier."""
        ...

    def workers(self) -> "Sequence[WorkerStatus]":
        """The workers heard of in the last seconds."""
        ...

    def lanes(self) -> dict[Lane, int]:
        """Jobs that wait in each lane."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class AsyncPromise(Protocol):
    """Of one ranking, awaited."""

    @property
    def job_id(self) -> str:
        """By which any process picks it up again."""
        ...

    async def result(self, timeout: float | None = None) -> Ranking:
        """The ranking, waited for: for `timeout` seconds, or for as long as it takes."""
        ...

    async def status(self) -> "JobStatus":
        """Where the job stands."""
        ...

    async def progress(self) -> tuple[int, int]:
        """Documents scored so far, and documents in all."""
        ...

    async def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        ...

    async def cancel(self) -> None:
        """Call the job off."""
        ...


class AsyncReranker(Protocol):
    """What asks and waits in an event loop: `AsyncRerankClient`, or a fake."""

    async def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """The ranking, waited for."""
        ...

    async def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncPromise:
        """A promise of the ranking."""
        ...

    def job(self, job_id: str) -> AsyncPromise:
        """The promise of a job that was submitted elsewhere or earlier."""
        ...

    async def workers(self) -> "Sequence[WorkerStatus]":
        """The workers heard of in the last seconds."""
        ...

    async def lanes(self) -> dict[Lane, int]:
        """Jobs that wait in each lane."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
