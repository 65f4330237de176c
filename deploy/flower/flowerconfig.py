"""Flower's options. Users come from a secret file of one line, `name:password`; without it Flower does not start."""

import os
from pathlib import Path

_secret = Path(os.environ.get("RERANKQ_SECRETS_DIR", "/run/secrets")) / "flower_basic_auth"
# A FileNotFoundError from here Flower takes for a missing options file, and starts open to everybody.
_users = _secret.read_text().split() if _secret.is_file() else []
if not _users or not all(":" in user for user in _users):
    raise SystemExit(
        f"expected {_secret} to hold name:password, one per line; `python deploy/make_secrets.py` writes one"
    )

basic_auth = _users
address = "0.0.0.0"  # noqa: S104 - inside the container; the host publishes it on loopback only
port = 5555
read_only = True  # look, do not touch: cancelling is `rerankq cancel`, which survives a restart
persistent = True
db = "/data/flower"
state_save_interval = 60_000  # ms; default is at exit only, which a killed container never reaches
max_tasks = 10_000  # default 100,000 costs some hundred MB
purge_offline_workers = 300  # s; else every old container stays listed for ever
task_runtime_metric_buckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf")]
