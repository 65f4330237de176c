"""Inputs behind a scheme (`s3://`, `gs://`, `https://`, `hf://`, …), by fsspec and the scheme's own driver.

Neither is needed for files of this machine, and neither is loaded for them.
"""

import io
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import IO, Any

from rerankq.contract.errors import InvalidRequest, InvalidSettings

# What drivers call the mark that changes with a file's content: the first that is told counts. The upper ones are of
# the content alone, the lower ones may be another for a copy.
_VERSIONS = (
    "Content-MD5", "md5Hash", "blob_id", "ETag", "etag", "generation", "version_id", "LastModified", "Last-Modified",
    "last_modified", "updated", "mtime", "modified", "created",
)  # fmt: skip
_LINKED = ("http://", "https://")  # a page has no listing, and a `?` in its address is no wildcard


class InputAway(InvalidRequest):
    """An input that was there when the run began cannot be reached; the same command goes on once it can."""

    retryable = True


def is_remote(path: str) -> bool:
    """Whether a path has a scheme."""
    return "://" in path


def files_through(path: str) -> list[str]:
    """The files of this machine that may be read: the path itself, or where a chain (`zip://…::archive.zip`) leads."""
    links = path.split("::") if is_remote(path) else [path]
    return [link.removeprefix("file://").removeprefix("local://") for link in links]


def remote_names(url: str) -> list[str]:
    """The files that an address names: itself, all below it, or all that match."""
    if url.startswith(_LINKED):
        return [url]
    with _reaching(url):
        files, path = _found(url)
        if any(mark in path for mark in "*["):
            found = files.glob(path, detail=True)
        elif files.isdir(path):
            found = {path: {"type": "directory"}}
        else:
            return [url]
        return [_in_full(files.unstrip_protocol(name), url) for name in _files_with_data(files, found)]


def _in_full(name: str, asked: str) -> str:
    """With the rest of a chain, as `zip://*.jsonl::s3://bucket/archive.zip` is one."""
    first, chain, rest = asked.partition("::")
    return f"{name}{chain}{rest}" if "://" in first else f"{first}{chain}{name}"


def _files_with_data(files: Any, found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, told in found.items():
        if told["type"] == "directory":
            yield from _files_with_data(files, files.find(name, detail=True))
        elif told.get("size") != 0:
            yield name


class RemoteFile:
    """A file behind a scheme."""

    mtime_ns = None

    def __init__(self, url: str) -> None:
        self._url = url
        with _reaching(url):
            self._files, self._path = _found(url)
            told = self._files.info(self._path)
        self.size: int | None = told.get("size")
        self.version = next((str(told[name]) for name in _VERSIONS if told.get(name) is not None), None)
        self.name = url.partition("?")[0] if url.startswith(_LINKED) else url
        """Without what follows a `?`: a signature there is another one each time, and a secret."""

    def open(self) -> io.RawIOBase:
        """Its bytes."""
        with _reaching(self._url, InputAway):
            return _Raw(self._url, self._files.open(self._path, "rb"))


class _Raw(io.RawIOBase):
    """A driver's file whose errors are ours: it was there, so that they are its network's."""

    def __init__(self, url: str, file: IO[bytes]) -> None:
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def readinto(self, buffer: Any) -> int:
        with _reaching(self._url, InputAway):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _found(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        core = import_module("fsspec.core")
    except ImportError as error:
        raise InvalidSettings(
            f"{scheme}:// needs fsspec, which is not installed; `pip install 'rerankq[bulk]'` brings it"
        ) from error
    try:
        return core.url_to_fs(url)
    except ImportError as error:
        raise InvalidSettings(f"{scheme}:// needs a driver that is not installed: {error}") from error


@contextmanager
def _reaching(url: str, failure: type[InvalidRequest] = InvalidRequest) -> Generator[None]:
    try:
        yield
    except (InvalidRequest, InvalidSettings):
        raise
    except FileNotFoundError as error:
        raise failure(f"there is no file {url}", {"field": "input"}) from error
    except Exception as error:  # drivers raise what their libraries do
        raise failure(f"{url} cannot be read: {type(error).__name__}: {error}", {"field": "input"}) from error
