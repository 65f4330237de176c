"""Write the secrets that compose and Kubernetes hand out as files, with fresh passwords.

    python deploy/make_secrets.py [DIRECTORY]

Knows file formats only; needs nothing but Python. A file that exists is kept, so a second run changes nothing.
"""

import argparse
import secrets
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = Path(__file__).parent / "secrets"

# What rerankq and Celery need of Redis, and no more: neither FLUSHALL nor KEYS nor CONFIG SET.
RIGHTS = "~* &* +@all -@admin -@dangerous +info +config|get +client|setname +client|id +client|list"
USERS = """\
user default off
user rerankq on >{redis} {rights}
user health on nopass -@all +ping
"""


def secret_files() -> dict[str, str]:
    """File name to content, made of fresh passwords. No file ends in a newline that a reader could take along."""
    redis, flower, grafana = (secrets.token_urlsafe(24) for _ in range(3))
    return {
        "redis_users": USERS.format(redis=redis, rights=RIGHTS),
        "redis_password": redis,
        "rerankq_broker_url": f"redis://rerankq:{redis}@redis:6379/0",
        "flower_basic_auth": f"admin:{flower}",
        "grafana_admin_password": grafana,
    }


def write(files: Mapping[str, str], directory: Path) -> list[Path]:
    """Write all files, or none where one is there already; returns those written."""
    directory.mkdir(parents=True, exist_ok=True)
    # Containers run as other users than you: the files are readable, their directory is yours alone.
    directory.chmod(0o700)
    paths = {directory / name: content for name, content in files.items()}
    if any(path.exists() for path in paths):
        return []
    for path, content in paths.items():
        path.write_text(content)
        path.chmod(0o644)
    return list(paths)


def main() -> None:
    """Write the secrets and say where they are."""
    parser = argparse.ArgumentParser(description="Write the secrets that compose and Kubernetes hand out.")
    parser.add_argument("directory", nargs="?", type=Path, default=DIRECTORY)
    directory = parser.parse_args().directory
    written = write(secret_files(), directory)
    for path in written:
        print(f"wrote {path}")
    if not written:
        print(f"{directory} already holds secrets; remove them all first for fresh ones")


if __name__ == "__main__":
    main()
