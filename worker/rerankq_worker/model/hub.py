"""The Hub: what of a model is fetched from it, and its cache on this machine. Knows no model from the inside.

A large file that was cut off goes on where it stopped, whichever process fetches it next: the Hub's own library keeps
whole files, and begins the one it was at anew.
"""

import fcntl
import hashlib
import http
import re
import shlex
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rerankq_worker.model.errors import HubAway, ModelNotFound

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
NEEDED = ("*.json", "*.safetensors", "*.jinja")  # never *.bin or *.py: a pickle runs code when it is read
PATTERNS = (*NEEDED, "*.txt", "*.model", "README.md")
"""In folders, too. Vocabularies are for a directory without tokenizer.json, README.md tells the licence."""
RESUMED_BYTES = 4_000_000
"""Smaller files are fetched anew sooner than they are asked after."""
LONGEST_REASON_CHARACTERS = 200
SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(model: str, revision: str | None, offline: bool, patterns: Sequence[str] = PATTERNS) -> Path:
    """The snapshot of a Hub id in the cache, with all files that match.

    Raises:
        ModelNotFound, HubAway: one line each, with the way out.
    """
    try:
        from huggingface_hub.errors import (  # lazy: a directory needs no Hub library
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise ModelNotFound(
            f"{model} is looked for by {error.name}, which is not installed; `pip install 'rerankq[worker]'` brings it"
        ) from error

    pull = f"run `rerankq model pull {model}`"
    ways_out = f"{pull} on a host that reaches the Hub, or give a model directory"
    try:
        return _snapshot(model, revision, offline, patterns)
    except LocalEntryNotFoundError as error:
        if offline:
            raise ModelNotFound(f"model {model} is not in the local cache; {ways_out}") from error
        raise HubAway(
            f"model {model} is not in the local cache and the Hub was not reached; {ways_out}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the Hub knows no public model {model}; check its name, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"the Hub's {model} has no revision {revision}; give a commit, a branch or a tag"
        ) from error
    except Exception as error:  # its HTTP library's own errors pass through, of whatever library that is
        kind = HubAway if _may_pass(error) else ModelNotFound
        reason = " ".join(str(error).split())[:LONGEST_REASON_CHARACTERS]
        raise kind(
            f"model {model} could not be fetched ({type(error).__name__}: {reason}); "
            f"{pull} again, it goes on where it stopped"
        ) from error


def files_in_repository(snapshot: Path) -> list[str] | None:
    """What the Hub has at a snapshot's commit, fetched or not; None where its library has not written that down."""
    import huggingface_hub

    repository, cached_tree = repository_of(snapshot), getattr(huggingface_hub, "get_cached_repo_tree", None)
    if repository is None or cached_tree is None:  # before 2.0 it writes nothing down
        return None
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = cached_tree(hub_id(repository), revision=snapshot.name, cache_dir=repository.parent)
    except CachedRepoTreeNotFoundError:
        return None
    return [file.path for file in tree]


def copy_pulled(source: Path, target: Path, but: Sequence[str]) -> None:
    """Copies what would be pulled of a repository, its folders kept, but what matches a pattern of `but`."""
    for file in source.rglob("*"):
        name = str(file.relative_to(source))
        if file.is_file() and _matches(name, PATTERNS) and not _matches(name, but):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / name)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def repository_of(path: Path) -> Path | None:
    """The folder of the Hub's cache that a snapshot, or a file in it, belongs to."""
    return next((folder for folder in path.parents if folder.name.startswith("models--")), None)


def cache_directory() -> Path:
    """Where the Hub's library keeps what it fetches."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).absolute()


def hub_id(repository: Path) -> str:
    """The id of a folder of the Hub's cache."""
    return repository.name.removeprefix("models--").replace("--", "/")


def fetched_anew(file: Path) -> str:
    """How to get a file that is missing or damaged; the Hub's library takes what is in its cache for whole."""
    repository = repository_of(file)
    if repository is None:
        return "copy or save it there once more"
    delete = f"rm -r {shlex.quote(str(repository))} && " if file.exists() else ""
    return f"run `{delete}rerankq model pull {hub_id(repository)}`"


def _snapshot(model: str, revision: str | None, offline: bool, patterns: Sequence[str]) -> Path:
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not offline and not _is_whole(model, revision, patterns):
        _go_on(model, revision, patterns)
    try:
        return _downloaded(model, revision, patterns, offline)
    except LocalEntryNotFoundError as error:
        if not hasattr(error, "snapshot_path"):
            raise
    # part of it is there: what a version that asked for less has pulled is whole to us
    return _downloaded(model, revision, NEEDED, offline=True)


def _downloaded(model: str, revision: str | None, patterns: Sequence[str], offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(model, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
    )


def _is_whole(model: str, revision: str | None, patterns: Sequence[str]) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        _downloaded(model, revision, patterns, offline=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _go_on(model: str, revision: str | None, patterns: Sequence[str]) -> None:
    """Fetch the large files that are not in the cache yet, each from where an earlier download stopped."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    try:
        files = snapshot_download(
            model, revision=revision, allow_patterns=list(patterns), dry_run=True, tqdm_class=NoBar
        )
    except DryRunError:  # no way to the Hub: what follows says so better
        return
    for file in files:
        if file.will_download and (file.file_size or 0) >= RESUMED_BYTES:
            _fetch_large(model, file.filename, file.commit_hash, Path(file.local_path))


def _fetch_large(model: str, name: str, commit: str, wanted: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE

    url = hf_hub_url(model, name, revision=commit)
    told = get_hf_file_metadata(url)
    repository = repository_of(wanted)
    if told.etag is None or told.size is None or told.size > MAX_HTTP_DOWNLOAD_SIZE or repository is None:
        return  # the library has ways of its own
    blob = repository / "blobs" / told.etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    unfinished = blob.with_name(f"{told.etag}.incomplete")
    with unfinished.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # whoever fetches it already has been waited for
        if not blob.exists():
            _append(stream, url, name, told.size)
            _refuse_another(unfinished, told.etag)
            unfinished.rename(blob)
    unfinished.unlink(missing_ok=True)


def _append(stream: Any, url: str, name: str, size_bytes: int) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    there_bytes = stream.tell()
    if there_bytes > size_bytes:
        stream.truncate(there_bytes := 0)
    http_get(
        url,
        stream,
        resume_size=there_bytes,
        headers=build_hf_headers(),
        expected_size=size_bytes,
        displayed_filename=name,
    )
    stream.flush()


def _refuse_another(file: Path, etag: str) -> None:
    """Parts that do not make the whole are thrown away; the Hub names large files by their hash."""
    if not SHA256.fullmatch(etag):
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != etag:
        file.unlink()
        raise OSError(
            f"expected {file.name} to have the sha256 {etag[:12]}, got {found[:12]}; it was deleted"
        )


def _may_pass(error: Exception) -> bool:
    """Whether it is the network, the Hub's own trouble, or a request too many; not what was asked for."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return isinstance(error, OSError) or type(error).__module__.startswith("httpx")
    return status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
