"""The names of all settings of both sides, so that each can tell a misspelt one from its neighbour's.

A test keeps this list equal to the settings classes.
"""

OUTSIDE_THE_CLASSES = frozenset(
    {
        "RERANKQ_SECRETS_DIR",  # where secrets lie as files
        "RERANKQ_CACHE_DIR",  # where the small model is kept once written
        "RERANKQ_SHARED",  # where the tests find data that nobody here wrote
    }
)

VARIABLES: frozenset[str] = frozenset(
    {
        "RERANKQ_BROKER_URL",
        "RERANKQ_BULK_HARD_LIMIT_SECONDS",
        "RERANKQ_BULK_MEMORY_FRACTION",
        "RERANKQ_BULK_PATIENCE_SECONDS",
        "RERANKQ_BULK_SOFT_LIMIT_SECONDS",
        "RERANKQ_BULK_WORKERS",
        "RERANKQ_CACHE_DIR",
        "RERANKQ_DEAD_LETTER_TTL_SECONDS",
        "RERANKQ_DEVICES",
        "RERANKQ_DRAIN_SECONDS",
        "RERANKQ_DTYPE",
        "RERANKQ_ENGINE_FACTORY",
        "RERANKQ_ENGINE_SOCKET",
        "RERANKQ_INTERACTIVE_HARD_LIMIT_SECONDS",
        "RERANKQ_INTERACTIVE_SOFT_LIMIT_SECONDS",
        "RERANKQ_INTERACTIVE_TIMEOUT_SECONDS",
        "RERANKQ_INTERACTIVE_WORKERS",
        "RERANKQ_LEASE_SECONDS",
        "RERANKQ_LOAD_TIMEOUT_SECONDS",
        "RERANKQ_MAX_ATTEMPTS",
        "RERANKQ_MAX_BATCH_PAIRS",
        "RERANKQ_MAX_BATCH_TOKENS",
        "RERANKQ_MAX_BROKER_BYTES",
        "RERANKQ_MAX_BULK_JOBS",
        "RERANKQ_MAX_BULK_WAIT_SECONDS",
        "RERANKQ_MAX_DOCUMENTS",
        "RERANKQ_MAX_DOCUMENT_CHARACTERS",
        "RERANKQ_MAX_INTERACTIVE_JOBS",
        "RERANKQ_MAX_INTERACTIVE_WAIT_SECONDS",
        "RERANKQ_MAX_LENGTH_TOKENS",
        "RERANKQ_MAX_PAYLOAD_BYTES",
        "RERANKQ_MAX_REQUEST_CHARACTERS",
        "RERANKQ_MEMORY_FRACTION",
        "RERANKQ_METRICS_HOST",
        "RERANKQ_METRICS_PORT",
        "RERANKQ_MODEL",
        "RERANKQ_MODEL_REVISION",
        "RERANKQ_OFFLINE",
        "RERANKQ_REDIS_TIMEOUT_SECONDS",
        "RERANKQ_RESULT_TTL_SECONDS",
        "RERANKQ_RESULT_URL",
        "RERANKQ_RUNTIME_DIR",
        "RERANKQ_SECRETS_DIR",
        "RERANKQ_SHARED",
        "RERANKQ_STUCK_AFTER_SECONDS",
        "RERANKQ_THREADS",
    }
)
