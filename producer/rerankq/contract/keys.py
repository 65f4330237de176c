"""Every Redis key of ours and how long it lives.

| key                      | type   | holds                                        | lives                |
|--------------------------|--------|----------------------------------------------|----------------------|
| rerankq.<lane>           | list   | messages that wait for whichever model       | until taken          |
| rerankq.<lane>@<digest>  | list   | those that name a model (`digest_of` it)     | until taken          |
| <either>.bell            | list   | rings that idle workers wait on              | until answered       |
| <either>.open            | zset   | jobs pushed onto the list, not answered yet  | until answered       |
| <either>.looked          | string | "1": their messages were looked for          | two seconds          |
| rerankq:held             | hash   | delivery -> the message a worker holds       | until answered       |
| rerankq:leases           | zset   | delivery -> when its worker has lost it      | with what is held    |
| rerankq:delayed          | zset   | message -> when it is due again              | until due            |
| rerankq:dead             | zset   | id of a message set aside -> when            | DEAD_LETTER_TTL      |
| rerankq:dead:<id>        | hash   | why, after how many attempts                 | DEAD_LETTER_TTL      |
| rerankq:dead:<id>:message| string | the message itself                           | DEAD_LETTER_TTL      |
| rerankq:untold           | zset   | jobs set aside whose caller must be told     | until told           |
| rerankq:job:<id>         | hash   | state, lane, counts: what `status` tells     | JOB_TTL, then result |
| rerankq:checkpoint:<id>  | string | float32 logits scored so far, NaN = not yet  | CHECKPOINT_TTL       |
| rerankq:cancel:<id>      | string | "1": the job was called off                  | JOB_TTL, till answer |
| rerankq:payload:<id>     | string | zstd body of a large message (claim check)   | JOB_TTL              |
| rerankq:workers          | hash   | worker name -> its last heartbeat as JSON    | pruned by age        |
| rerankq:pace             | hash   | worker name -> its pace, and pairs of late   | with its worker      |
| rerankq:models           | zset   | model that jobs named -> when one did last   | JOB_TTL              |
| rerankq:totals           | hash   | what was counted of jobs (`totals.py`)       | for ever, ~110 fields|
| rerankq:paused           | hash   | <lane> or <lane>@<digest> -> since when, whom| until resumed        |
| rerankq:draining         | hash   | worker name -> since when, and by whom       | with its worker      |

A job's record has of its sender fingerprint, lane, total, submitted and deadline, of the transport published, of both
queue (where the job names a model), of its workers lane, total, worker, attempts, started, scored, answered, and
counted once its end is among the totals. Another attempt forgets answered; `rerankq dead retry` forgets counted and
what attempts left, and submitted is then when that was.

Celery's own: `celery-task-meta-<id>`, `_kombu.*`.
"""

import hashlib
from collections.abc import Iterable

from rerankq.contract.messages import LANES, Lane

PREFIX = "rerankq:"

# A key without a TTL would outlive its reader in a store that may not evict.
JOB_TTL_SECONDS = 7 * 24 * 3600
CHECKPOINT_TTL_SECONDS = 24 * 3600
HEARTBEAT_TTL_SECONDS = 15  # a worker not heard of for this long is taken for dead
HEARTBEAT_PERIOD_SECONDS = 3

HELD = f"{PREFIX}held"
LEASES = f"{PREFIX}leases"
DELAYED = f"{PREFIX}delayed"
DEAD = f"{PREFIX}dead"
UNTOLD = f"{PREFIX}untold"
WORKERS = f"{PREFIX}workers"
PACE = f"{PREFIX}pace"
MODELS = f"{PREFIX}models"
TOTALS = f"{PREFIX}totals"
PAUSED = f"{PREFIX}paused"
DRAINING = f"{PREFIX}draining"

_QUEUE_PREFIX = "rerankq."
BELL_SUFFIX = ".bell"
MODEL_MARK = "@"
DIGEST_CHARACTERS = 12
# kombu's `sep`, between a queue and the priority of one of its lists: by itself, and as Celery's documentation has it.
SEPARATORS = ("\x06\x16", ":")


def digest_of(model: str) -> str:
    """What stands for a model in the name of a list: the first twelve hex digits of the SHA-256 of its name in UTF-8.

    `name` and `name@revision` are two names, each taken as it is written.
    """
    return hashlib.sha256(model.encode()).hexdigest()[:DIGEST_CHARACTERS]


def queue_of(lane: Lane, model: str | None = None) -> str:
    """The Redis list of a lane: of the jobs that name this model, or of those that name none."""
    return f"{_QUEUE_PREFIX}{pause_of(lane, model)}"


def pause_of(lane: Lane, model: str | None = None) -> str:
    """The field of `PAUSED` for a lane, or for the jobs of it that name this model."""
    return lane if model is None else f"{lane}{MODEL_MARK}{digest_of(model)}"


def lane_of_pause(field: str) -> str:
    """The lane that a field of `PAUSED` is about."""
    return field.partition(MODEL_MARK)[0]


def pauses_of(queue: str) -> tuple[str, str]:
    """The fields of `PAUSED` that keep the jobs of this list waiting: of its lane, and its own."""
    own = queue.removeprefix(_QUEUE_PREFIX)
    return lane_of_pause(own), own


def lane_of(queue: str) -> Lane:
    """The lane of a Redis list, whichever model its jobs name; an unknown one is bulk, the patient lane."""
    for lane in LANES:
        if queue.partition(MODEL_MARK)[0] == queue_of(lane):
            return lane
    return "bulk"


def queues_of(models: Iterable[str]) -> list[str]:
    """The Redis lists of all jobs, as far as these are the models that they name."""
    return [queue_of(lane, model) for model in (None, *models) for lane in LANES]


def bell_of(list_key: str) -> str:
    """The list that a producer pushes to when it has put a message on `list_key`; idle workers wait on it."""
    return list_key.split(SEPARATORS[0], 1)[0] + BELL_SUFFIX


def priority_lists(list_key: str) -> list[str]:
    """Where kombu of another client puts what it sends with a priority of its own."""
    return [f"{list_key}{between}{priority}" for between in SEPARATORS for priority in range(1, 10)]


def dead_letter(letter_id: str) -> str:
    """What is told of a message that was set aside."""
    return f"{DEAD}:{letter_id}"


def dead_message(letter_id: str) -> str:
    """The message that was set aside."""
    return f"{DEAD}:{letter_id}:message"


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


def result(job_id: str) -> str:
    """Where Celery's Redis backend keeps the answer, and the channel it announces it on."""
    return f"celery-task-meta-{job_id}"
