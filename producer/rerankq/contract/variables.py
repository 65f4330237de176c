"""The names of all settings of both sides, so that each can tell a misspelt one from its neighbour's.

A test keeps them equal to the settings classes.
"""


def _named(names: str) -> tuple[str, ...]:
    return tuple(f"RERANKQ_{name}" for name in names.split())


FIRST = _named("BROKER_URL MODEL DEVICES INTERACTIVE_HARD_LIMIT_SECONDS METRICS_PORT")
"""What people need before any other, in this order."""

NOT_FOR_PEOPLE = _named("ENGINE_FACTORY ENGINE_SOCKET")
"""For tests, and what the launcher sets."""

OUTSIDE_THE_CLASSES = frozenset(
    {
        "RERANKQ_SECRETS_DIR",  # where secrets lie as files
        "RERANKQ_CACHE_DIR",  # where the small model and merged adapters are kept once written
        "RERANKQ_SHARED",  # where the tests find data that nobody here wrote
    }
)

FORMER = {
    "RERANKQ_BULK_MEMORY_FRACTION": "bulk work is refused when the broker's memory is 60 % full",
    "RERANKQ_MEMORY_FRACTION": "work is refused when the broker's memory is 85 % full",
    "RERANKQ_MAX_BULK_WAIT_SECONDS": "a bulk job is refused when a day of work is ahead of it",
}
"""Settings that are none any more, and what holds instead."""

_BOTH = _named("""
    LOG LOG_LEVEL MAX_DOCUMENTS MAX_DOCUMENT_CHARACTERS MAX_PAYLOAD_BYTES MAX_REQUEST_CHARACTERS RESULT_URL
""")
_ASKING = _named("""
    BULK_PATIENCE_SECONDS INTERACTIVE_TIMEOUT_SECONDS MAX_BROKER_BYTES MAX_BULK_JOBS MAX_INTERACTIVE_JOBS
    MAX_INTERACTIVE_WAIT_SECONDS REDIS_TIMEOUT_SECONDS
""")
_HTTP = _named("""
    HTTP_CANARY_SECONDS HTTP_HOST HTTP_KEYS HTTP_MAX_BODY_BYTES HTTP_MAX_WAITING HTTP_PORT HTTP_TIMEOUT_SECONDS
""")
_ANSWERING = _named("""
    BULK_HARD_LIMIT_SECONDS BULK_SOFT_LIMIT_SECONDS BULK_WORKERS DEAD_LETTER_TTL_SECONDS DRAIN_SECONDS DTYPE
    ENGINE INTERACTIVE_SOFT_LIMIT_SECONDS INTERACTIVE_WORKERS LEASE_SECONDS LOAD_TIMEOUT_SECONDS MAX_ATTEMPTS
    MAX_BATCH_PAIRS MAX_BATCH_TOKENS MAX_LENGTH_TOKENS METRICS_HOST MODEL_REVISION OFFLINE
    RESULT_TTL_SECONDS RUNTIME_DIR SERVE_UNNAMED STUCK_AFTER_SECONDS THREADS
""")

VARIABLES = OUTSIDE_THE_CLASSES.union(FIRST, NOT_FOR_PEOPLE, _BOTH, _ASKING, _HTTP, _ANSWERING)


def place_of(variable: str) -> int:
    """Where a setting stands among the others: those that people need first, all others, those not for people."""
    if variable in FIRST:
        return FIRST.index(variable) - len(FIRST)
    return int(variable in NOT_FOR_PEOPLE)
