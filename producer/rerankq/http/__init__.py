"""One base URL for every reranking client there is: a thin coat over the asyncio client (extra `[http]`)."""

from rerankq.http.app import create_app
from rerankq.http.settings import HttpSettings

__all__ = ["HttpSettings", "create_app"]
