"""Every setting of the HTTP face: its default, unit and bound."""

import ipaddress

from pydantic import Field, SecretStr

from rerankq.contract.errors import InvalidSettings
from rerankq.settings import ClientSettings


class HttpSettings(ClientSettings):
    """What `rerankq serve` can turn, beside what any producer can."""

    http_host: str = "127.0.0.1"
    """The address that `rerankq serve` listens at; any other than loopback needs RERANKQ_HTTP_KEYS."""
    http_port: int = Field(default=8787, ge=0, le=65535)
    """Its port; 0 takes a free one."""
    http_keys: SecretStr = SecretStr("")
    """Keys that callers may show (`Authorization: Bearer …` or `Api-Key: …`), separated by commas or lines; `.env` and
    a file of that name among the secrets are read anew when they change. Empty: none is asked for, and only programs of
    this machine are answered."""
    http_timeout_seconds: float = Field(default=25.0, gt=0)
    """How long a request waits for its ranking when it does not say (`X-Timeout-Seconds`); also the job's deadline."""
    http_max_body_bytes: int = Field(default=64_000_000, ge=1024)
    """Bytes one request's body may have; reading stops there."""
    http_max_waiting: int = Field(default=1_000, ge=1)
    """Requests that one process holds at a time; one more is refused (429)."""
    http_canary_seconds: float = Field(default=0.0, ge=0)
    """How often a job with a known answer, which names no model, is sent through each lane; `/metrics` tells what
    became of it. 0: never."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that open; none: nobody is asked for one."""
        return tuple(self.http_keys.get_secret_value().replace(",", " ").split())

    def refuse_open_doors(self) -> None:
        """Refuse to listen beyond loopback where no key is asked for.

        Raises:
            InvalidSettings: it would, however the address is written.
        """
        if not self.keys and not is_loopback(self.http_host):
            raise InvalidSettings(
                f"expected loopback as host where no key is set, got {self.http_host or 'every address'}; set "
                "RERANKQ_HTTP_KEYS, or leave the host at 127.0.0.1",
                {"variable": "RERANKQ_HTTP_KEYS"},
            )


def is_loopback(host: str) -> bool:
    """Whether this is an address, or the name, of the machine for itself alone; no name is looked up."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
