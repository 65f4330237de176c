"""`celery control` to our workers: what ends a job calls it off as its caller does; what is meant for others is left.

Celery keeps revoked ids in each worker's memory, where they are lost with a restart, stand in the way of the same id
submitted again, and are told as the end of a job that another worker goes on with. Here the job's own record says it.

Knows Celery's remote control; knows neither messages nor what a job contains.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker import control
from celery.worker import state as worker_state

from rerankq_worker.queue.headers import is_id


def replace_revoke(call_off: Callable[[str], None]) -> None:
    """Let Celery's three ways to end a job call it off, and kill its child where that is asked for.

    Args:
        call_off: notes that a job of this id is not wanted any more.
    """

    def revoke(state: Any, task_id: Any, terminate: bool = False, **_: Any) -> dict[str, str]:
        """Call jobs off; with terminate, kill the process that runs them as well."""
        job_ids = [job_id for job_id in maybe_list(task_id) or () if is_id(job_id)]
        return _end(state, job_ids, terminate)

    def terminate(state: Any, signal: str, task_id: Any, **_: Any) -> dict[str, str]:  # noqa: ARG001 - always KILL
        """Call jobs off and kill the process that runs them."""
        return revoke(state, task_id, terminate=True)

    def revoke_by_stamped_headers(
        state: Any, headers: Any, terminate: bool = False, **_: Any
    ) -> dict[str, str]:
        """Call off the jobs with one of these stamps, those that are yet to come included."""
        wanted = dict(pair.split("=", 1) for pair in headers) if isinstance(headers, list) else headers
        control.revoke_by_stamped_headers(state, wanted)
        found = [request.id for request in list(worker_state.reserved_requests) if _has(request, wanted)]
        return _end(state, found, terminate)

    def _end(state: Any, job_ids: Iterable[str], terminate: bool) -> dict[str, str]:
        for job_id in job_ids:
            call_off(job_id)
            request = worker_state.requests.get(job_id)
            if terminate and request is not None:
                request.terminate(state.consumer.pool)
        return control.ok(f"called off: {', '.join(job_ids)}")

    for command in (revoke, terminate, revoke_by_stamped_headers):
        _replace(command)


def keep_shape(queues: Collection[str]) -> None:
    """Keep what a worker reads, and its one child, whatever a neighbour tells all workers of the database at once."""
    read_more = control.Panel.data["add_consumer"]

    def add_consumer(state: Any, queue: str, **more: Any) -> dict[str, str]:
        """Read a lane again; no queue of another application."""
        if queue not in queues:
            return control.nok(f"a worker of rerankq reads {', '.join(sorted(queues))} and nothing else")
        return read_more(state, queue, **more)

    def pool_grow(state: Any, n: int = 1, **_: Any) -> dict[str, str]:  # noqa: ARG001 - Celery's signature
        """Not done here: a worker of rerankq has one child."""
        return control.nok(
            "a worker of rerankq has one child; RERANKQ_INTERACTIVE_WORKERS says how many workers"
        )

    def pool_shrink(state: Any, n: int = 1, **_: Any) -> dict[str, str]:
        """Not done here: a worker of rerankq has one child."""
        return pool_grow(state, n)

    for command in (add_consumer, pool_grow, pool_shrink):
        _replace(command)


def _replace(command: Callable[..., dict[str, str]]) -> None:
    known = control.Panel.meta[command.__name__]
    control.Panel.data[command.__name__] = command
    control.Panel.meta[command.__name__] = known._replace(help=command.__doc__)


def _has(request: Any, stamps: dict[str, Any]) -> bool:
    return any(
        not set(maybe_list(request.stamps.get(name)) or ()).isdisjoint(maybe_list(values) or ())
        for name, values in stamps.items()
    )
