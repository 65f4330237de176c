"""Every Redis key of ours and how long it lives.

| key                      | type   | holds                                        | lives                |
|--------------------------|--------|----------------------------------------------|----------------------|
| rerankq:job:<id>         | hash   | state, lane, counts: what `status` tells      | JOB_TTL, then result |
| rerankq:checkpoint:<id>  | string | float32 logits scored so far, NaN = not yet   | CHECKPOINT_TTL       |
| rerankq:cancel:<id>      | string | "1": the job was called off                   | JOB_TTL, till answer |
| rerankq:payload:<id>     | string | zstd body of a large message (claim check)    | JOB_TTL              |
| rerankq:workers          | hash   | worker name -> its last heartbeat as JSON     | pruned by age        |
| rerankq:pace             | hash   | worker name -> seconds a job takes, by lane   | with its worker      |
| <list>.open              | zset   | jobs pushed onto the list, not answered yet   | until answered       |
| <list>.looked            | string | "1": their messages were looked for           | two seconds          |

The transport's own (docs/transport.md): the two lanes and their bells, `rerankq:held`, `rerankq:leases`,
`rerankq:delayed`, `rerankq:dead*`. Celery's own: `celery-task-meta-<id>`, `_kombu.*`.
"""

PREFIX = "rerankq:"

# A key without a TTL would outlive its reader in a store that may not evict.
JOB_TTL_SECONDS = 7 * 24 * 3600
CHECKPOINT_TTL_SECONDS = 24 * 3600
HEARTBEAT_TTL_SECONDS = 15  # a worker not heard of for this long is taken for dead
HEARTBEAT_PERIOD_SECONDS = 3


def job(job_id: str) -> str:
    """What is known of a job."""
    return f"{PREFIX}job:{job_id}"


def checkpoint(job_id: str) -> str:
    """Scores an earlier attempt left behind."""
    return f"{PREFIX}checkpoint:{job_id}"


def cancel(job_id: str) -> str:
    """Present when the job was called off."""
    return f"{PREFIX}cancel:{job_id}"


def payload(job_id: str) -> str:
    """The body of a message too large to travel inline."""
    return f"{PREFIX}payload:{job_id}"


def open_jobs(list_key: str) -> str:
    """The jobs whose messages were put on a list and are not answered yet, by when they were put there."""
    return f"{list_key}.open"


def looked(list_key: str) -> str:
    """Present when somebody has just looked for the messages of a list's open jobs."""
    return f"{list_key}.looked"


WORKERS = f"{PREFIX}workers"
PACE = f"{PREFIX}pace"


def result(job_id: str) -> str:
    """Where Celery's Redis backend keeps the answer, and the channel it announces it on."""
    return f"celery-task-meta-{job_id}"
