"""Every setting of the HTTP face: its default, unit and bound."""

from typing import Any, Self

from pydantic import Field, SecretStr

from rerankq.contract.errors import InvalidSettings
from rerankq.settings import ClientSettings

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class HttpSettings(ClientSettings):
    """What `rerankq serve` can turn, beside what any producer can."""

    http_host: str = "127.0.0.1"
    """The address that `rerankq serve` listens at; any other than loopback needs RERANKQ_HTTP_KEYS."""
    http_port: int = Field(default=8787, ge=0, le=65535)
    """Its port; 0 takes a free one."""
    http_keys: SecretStr = SecretStr("")
    """Keys that callers may show (`Authorization: Bearer …` or `Api-Key: …`), separated by commas or lines; a file of
    that name among the secrets is read anew when it changes. Empty: none is asked for, and loopback alone is served."""
    http_timeout_seconds: float = Field(default=25.0, gt=0)
    """How long a request waits for its ranking when it does not say (`X-Timeout-Seconds`); also the job's deadline."""
    http_max_body_bytes: int = Field(default=64_000_000, ge=1024)
    """Bytes one request's body may have; reading stops there."""
    http_max_waiting: int = Field(default=1_000, ge=1)
    """Requests that one process holds at a time; one more is refused (429)."""

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """As any producer's settings.

        Raises:
            InvalidSettings: a value is out of bounds, or it would listen beyond loopback and ask for no key.
        """
        settings = super().load(**overrides)
        if settings.http_host not in LOOPBACK and not settings.keys:
            raise InvalidSettings(
                f"without a key only loopback is served, got host {settings.http_host}; set RERANKQ_HTTP_KEYS",
                {"variable": "RERANKQ_HTTP_KEYS"},
            )
        return settings

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that open; none: nobody is asked for one."""
        return tuple(self.http_keys.get_secret_value().replace(",", " ").split())
