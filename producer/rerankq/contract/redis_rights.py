"""What each kind of user does in our Redis: every command of ours, and the keys and channels it takes.

The one list behind `deploy/redis/users.acl`, which lets each do that and no more, and behind `rerankq doctor`, which
says what a user lacks of it. Knows commands and keys only.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rerankq.contract import keys
from rerankq.contract.messages import LANES


class Right(NamedTuple):
    """Something that a user does, with the commands and keys it takes."""

    what: str
    commands: str
    keys: Sequence[str] = ()


LANE_KEYS = [f"{keys.queue_of(lane)}*" for lane in LANES]  # those of each model, bells, open jobs, priorities
CELERY_KEYS = ["_kombu.*"]
CHORD_KEYS = ["celery-taskset-meta-*"]
CALLERS_KEYS = ["celery", "celery.bell"]
"""Where callbacks go that name no queue; name queues of your own here."""

PRODUCER = (
    Right("connect", "ping hello select client|setname multi exec discard"),
    Right(
        "put messages on lanes",
        "eval evalsha script|load script|exists lpush ltrim pexpire sadd smembers",
        LANE_KEYS + CELERY_KEYS,
    ),
    Right(
        "keep and count the index of open jobs, and see what of it vanished",
        "zadd zcard zrange zscore",
        LANE_KEYS,
    ),
    Right("count what waits, KEDA too", "llen type", LANE_KEYS),
    Right(
        "see workers, pace, paused lanes, memory and the clock",
        "hgetall time info",
        [keys.WORKERS, keys.PACE, keys.PAUSED],
    ),
    Right("note which models jobs name, and see it", "zadd zrange", [keys.MODELS]),
    Right("count the jobs that are refused", "hincrby", [keys.TOTALS]),
    Right(
        "keep records of its jobs, large bodies and cancellations",
        "hset hsetnx hget hmget hgetall hexists hdel set del exists expire",
        [keys.job("*"), keys.payload("*"), keys.cancel("*")],
    ),
    Right(
        "read answers, and wait for them as any Celery client does",
        "get mget set setex del unlink expire exists subscribe unsubscribe psubscribe punsubscribe",
        [keys.result("*")],
    ),
    Right("begin chords, as any Celery client does", "get set setex del expire", CHORD_KEYS),
)

WORKER = (
    *PRODUCER,
    Right(
        "take, hold, put back and set aside messages; look at dead letters",
        "rpop rpush brpop hlen zadd zrem zscore zcard zrevrange zrangebyscore zremrangebyscore",
        [f"{keys.PREFIX}*"],
    ),
    Right(
        "see and give orders: lanes paused, workers drained",
        "hkeys hgetall hexists hsetnx hdel",
        [keys.PAUSED, keys.DRAINING],
    ),
    Right("notice messages that vanished", "lindex hkeys hvals hlen zcard", LANE_KEYS),
    Right("store and announce answers, send events", "publish"),
    Right(
        "end chords, call back",
        "zadd zcount zrange rpush llen lrange sadd sismember get set del exists expire lpush ltrim",
        CHORD_KEYS + CALLERS_KEYS,
    ),
    Right("be asked by `celery inspect` and Flower, and ask", "srem", ["*.celery.pidbox*", "celeryev.*"]),
    Right("be scraped", "llen lindex hlen zcard hgetall time info", LANE_KEYS),
)

# Redis compares a pattern subscription with its rule word for word; the channels of Celery name database 0.
PRODUCER_CHANNELS = [keys.result("*")]
WORKER_CHANNELS = [*PRODUCER_CHANNELS, "/0.celery.pidbox", "/0.celeryev/*"]
