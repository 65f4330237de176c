"""Every setting of the worker: its default, unit and bound."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rerankq.contract.messages import Lane, Limits
from rerankq.contract.settings import SharedSettings


class WorkerSettings(SharedSettings):
    """What an operator can turn on the answering side."""

    model: str = "BAAI/bge-reranker-v2-m3"
    """Hub id or directory of the cross-encoder; `small` is the one in the box, for demos and tests."""
    model_revision: str | None = None
    """Commit of the hub id. Empty: the one this release was checked with, else the newest."""
    offline: bool = False
    """Never ask the hub; the model must be in its cache or be a directory."""
    devices: str = "auto"
    """`auto` (every GPU, else the CPU), `cpu`, or GPUs as `0,1` or `GPU-<uuid>`. One engine process each."""
    dtype: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Arithmetic of the model's body. `auto`: fp16 on a GPU, fp32 on a CPU. bf16 and int8 are faster on a CPU and
    cost quality (docs/engine.md says how much)."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one engine; all cores when empty."""
    max_length_tokens: int = Field(default=1024, ge=16, le=8192)
    """Tokens of one query-document pair; what is longer is cut from the document's end. More cost time and memory."""
    max_batch_pairs: int = Field(default=32, ge=1, le=1024)
    """Pairs in one forward pass. An interactive job waits behind at most one such batch."""
    max_batch_tokens: int | None = Field(default=None, ge=16)
    """Tokens in one forward pass; found at warm-up from free memory when empty."""
    interactive_workers: int = Field(default=1, ge=0, le=64)
    """Celery workers per device that take only interactive jobs. With more of them, more jobs share a batch."""
    bulk_workers: int = Field(default=1, ge=0, le=64)
    """Celery workers per device that take interactive jobs first, then bulk ones."""
    interactive_soft_limit_seconds: float = Field(default=2.0, gt=0)
    """A job without a deadline is ended after this time, with `DeadlineExceeded` or a partial ranking."""
    interactive_hard_limit_seconds: float = Field(default=5.0, gt=0)
    """A job is killed after this time whatever it does. Costs the model nothing."""
    bulk_soft_limit_seconds: float = Field(default=60.0, gt=0)
    """The same as the interactive one, for bulk jobs and packs."""
    bulk_hard_limit_seconds: float = Field(default=90.0, gt=0)
    """The same as the interactive one, for bulk jobs and packs."""
    max_attempts: int = Field(default=3, ge=1)
    """Deliveries of one job before it is set aside as a dead letter."""
    lease_seconds: float = Field(default=15.0, ge=1)
    """A worker silent for this long has lost what it held; its job runs elsewhere."""
    dead_letter_ttl_seconds: int = Field(default=30 * 24 * 3600, ge=60)
    """How long a dead letter is kept."""
    load_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long an engine may take to load and warm up before it is started anew."""
    stuck_after_seconds: float = Field(default=60.0, gt=0)
    """A forward pass longer than this is taken for hung: the engine ends itself and is started anew."""
    drain_seconds: float = Field(default=100.0, ge=0)
    """After SIGTERM a running job may take this long; then it is handed back to the queue."""
    runtime_dir: str | None = None
    """Directory of the engines' sockets and heartbeat files; a private temporary one when empty."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Serve Prometheus metrics on this port; off when empty."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics; beyond loopback only when asked for."""
    engine_factory: str = "rerankq_worker.engine:load_engine"
    """`module:function` that makes the engine from these settings; test doubles are named here."""

    @property
    def limits(self) -> Limits:
        """How large one request may be."""
        return Limits(self.max_documents, self.max_document_characters, self.max_request_characters)

    def time_limits(self, lane: Lane) -> tuple[float, float]:
        """Soft and hard limit of a lane, in seconds."""
        if lane == "interactive":
            return self.interactive_soft_limit_seconds, self.interactive_hard_limit_seconds
        return self.bulk_soft_limit_seconds, self.bulk_hard_limit_seconds

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        for lane in ("interactive", "bulk"):
            soft, hard = self.time_limits(lane)
            if soft > hard:
                name = f"RERANKQ_{lane.upper()}"
                raise ValueError(
                    f"expected {name}_SOFT_LIMIT_SECONDS to be at most "
                    f"{name}_HARD_LIMIT_SECONDS ({hard:g}), got {soft:g}"
                )
        if self.max_batch_tokens is not None and self.max_batch_tokens < self.max_length_tokens:
            raise ValueError(
                f"expected RERANKQ_MAX_BATCH_TOKENS to be at least RERANKQ_MAX_LENGTH_TOKENS "
                f"({self.max_length_tokens}), got {self.max_batch_tokens}"
            )
        return self
