"""Every setting of the worker: its default, unit and bound."""

import os
import tempfile
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.messages import Lane
from rerankq.contract.settings import SharedSettings


class WorkerSettings(SharedSettings):
    """What an operator can turn on the answering side."""

    model: str = "BAAI/bge-reranker-v2-m3"
    """Hub id or directory of the cross-encoder; `small` is the one in the box, for demos and tests."""
    model_revision: str | None = None
    """Commit of the hub id. Empty: the one this release was checked with, else the newest."""
    serve_unnamed: bool = True
    """Take jobs that name no model. With several models on one Redis, `false` at the workers of all but one says whose
    such jobs are; a job that names a model waits for a worker of that model."""
    offline: bool = False
    """Never ask the hub; the model must be in its cache or be a directory."""
    engine: Literal["auto", "packed", "sentence-transformers"] = "auto"
    """What computes the model: `packed` (the fastest, exact, for the families it knows), `sentence-transformers` (its
    CrossEncoder, for whatever that loads without remote code). `auto`: the first that can."""
    devices: str = "auto"
    """`auto` (every GPU, else the CPU), `cpu`, or GPUs as `0,1`, `GPU-<uuid>`, or slices as `MIG-<uuid>`. One engine
    process each."""
    dtype: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Precision of the model's body. `auto`: fp16 on a GPU, fp32 on a CPU. On a CPU fp16 and bf16 halve the memory,
    int8 and on some processors bf16 are faster; what each costs in quality is in docs/engine.md."""
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
    bulk_workers: int | None = Field(default=None, ge=0, le=64)
    """Celery workers per device that take interactive jobs first, then bulk ones. When empty: one on a CPU; two beside
    a GPU, where one tokenizes and answers while the other's documents are scored."""
    interactive_soft_limit_seconds: float | None = Field(default=None, gt=0)
    """An interactive job is ended after this time, with `DeadlineExceeded` or, where asked for, a partial ranking; a
    caller's deadline can only be earlier. When empty: two thirds of the hard limit, 30 s by default."""
    interactive_hard_limit_seconds: float = Field(default=45.0, gt=0)
    """An interactive job is killed after this time whatever it or its caller does. Costs the model nothing. The default
    leaves a CPU time for some fifty documents; lower it on a GPU to keep one long job from delaying others."""
    bulk_soft_limit_seconds: float | None = Field(default=None, gt=0)
    """The same as the interactive one, for bulk jobs and packs: 60 s by default."""
    bulk_hard_limit_seconds: float = Field(default=90.0, gt=0)
    """The same as the interactive one, for bulk jobs and packs."""
    max_attempts: int = Field(default=3, ge=1)
    """Deliveries of one job before it is set aside as a dead letter."""
    lease_seconds: float = Field(default=15.0, ge=1)
    """A worker silent for this long has lost what it held; its job runs elsewhere."""
    result_ttl_seconds: int = Field(default=3600, ge=1)
    """How long an answer is kept after it was given. Longer costs memory in Redis."""
    dead_letter_ttl_seconds: int = Field(default=7 * 24 * 3600, ge=60)
    """How long a dead letter is kept."""
    load_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long an engine may take to load and warm up before it is started anew."""
    stuck_after_seconds: float = Field(default=60.0, gt=0)
    """A forward pass longer than this is taken for hung: the engine ends itself and is started anew."""
    drain_seconds: float = Field(default=100.0, ge=0)
    """After SIGTERM a running job may take this long; then it is handed back to the queue."""
    runtime_dir: str | None = None
    """Directory of the engines' sockets and heartbeat files, for us alone. When empty: `rerankq` in
    `XDG_RUNTIME_DIR`, or `rerankq-<uid>` among the temporary files."""
    engine_socket: str | None = None
    """Socket of the engine that this Celery worker asks; the launcher sets it. When empty: the only one in the
    runtime directory."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Serve Prometheus metrics on this port; off when empty."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics; beyond loopback only when asked for."""
    engine_factory: str = "rerankq_worker.engine:load_engine"
    """`module:function` that makes the engine from these settings; test doubles are named here, with numbers if they
    take any: `rerankq_worker.doubles:slow?batch_ms=10`."""

    def time_limits(self, lane: Lane) -> tuple[float, float]:
        """Soft and hard limit of a lane, in seconds."""
        if lane == "interactive":
            soft, hard = self.interactive_soft_limit_seconds, self.interactive_hard_limit_seconds
        else:
            soft, hard = self.bulk_soft_limit_seconds, self.bulk_hard_limit_seconds
        return (hard * 2 / 3 if soft is None else soft), hard

    @property
    def runtime_path(self) -> Path:
        """The runtime directory, the default resolved; it need not exist."""
        if self.runtime_dir is not None:
            return Path(self.runtime_dir).expanduser().absolute()
        if private := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(private) / "rerankq"
        return Path(tempfile.gettempdir()) / f"rerankq-{os.getuid()}"

    def make_runtime_dir(self) -> Path:
        """The runtime directory, made if need be, open to nobody but us.

        Raises:
            InvalidSettings: it belongs to somebody else, or cannot be made.
        """
        path = self.runtime_path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = path.lstat().st_uid
            if owner == os.getuid() and path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
                return path
        except OSError as error:
            raise InvalidSettings(
                f"no runtime directory at {path} ({error}); set RERANKQ_RUNTIME_DIR"
            ) from error
        raise InvalidSettings(
            f"expected {path} to be a directory of ours, got one of user {owner} or a link; set RERANKQ_RUNTIME_DIR"
        )

    def socket_of(self, device: str) -> Path:
        """Where the engine of a device (`cpu0`, `gpu0`) is spoken to."""
        return self.runtime_path / f"{device}.sock"

    def find_engine_socket(self) -> Path:
        """The socket that a Celery worker asks: the one it was given, else the only one there is.

        Raises:
            InvalidSettings: none was given, and there is none or more than one.
        """
        if self.engine_socket is not None:
            return Path(self.engine_socket)
        sockets = sorted(self.runtime_path.glob("*.sock"))
        if len(sockets) == 1:
            return sockets[0]
        raise InvalidSettings(
            f"expected one engine in {self.runtime_path}, found {len(sockets)}; start `rerankq-worker --engine-only`, "
            "or set RERANKQ_ENGINE_SOCKET"
        )

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
        if self.interactive_workers == self.bulk_workers == 0:
            raise ValueError(
                "expected RERANKQ_INTERACTIVE_WORKERS or RERANKQ_BULK_WORKERS to be at least 1, got 0 and 0; for "
                "engines alone unset both and run `rerankq-worker --engine-only`"
            )
        if self.max_batch_tokens is not None and self.max_batch_tokens < self.max_length_tokens:
            raise ValueError(
                f"expected RERANKQ_MAX_BATCH_TOKENS to be at least RERANKQ_MAX_LENGTH_TOKENS "
                f"({self.max_length_tokens}), got {self.max_batch_tokens}"
            )
        return self
