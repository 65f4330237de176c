"""How the Redis of the settings is, as a worker would find it; asked within a second each."""

from collections.abc import Iterator

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from rerankq.contract.errors import InvalidSettings
from rerankq.contract.redis_clients import redis_client
from rerankq.contract.refusals import refusal_in
from rerankq_worker.settings import WorkerSettings

ANSWERS_WITHIN_SECONDS = 1.0


def trouble(settings: WorkerSettings) -> Iterator[str]:
    """One line for each Redis that does not serve.

    Raises:
        InvalidSettings: one refuses its user or password, or has no such database.
    """
    asked = {settings.broker_url.get_secret_value(): "RERANKQ_BROKER_URL"}
    asked.setdefault(settings.effective_result_url, "RERANKQ_RESULT_URL")
    for url, setting in asked.items():
        try:
            with redis_client(url, ANSWERS_WITHIN_SECONDS) as client:
                client.ping()
        except AuthenticationError as error:
            raise InvalidSettings(refused(setting)) from error
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and "DB index" in str(error):
                raise InvalidSettings(
                    f"{setting}: its Redis has no database of that number; most have 0 to 15"
                ) from error
            refusal = refusal_in(error)
            if refusal is None:
                yield f"the Redis of {setting} does not answer ({type(error).__name__})"
            else:
                yield f"the Redis of {setting} refuses ({refusal.what}): {refusal.cure}"


def refused(setting: str) -> str:
    """What to tell of a wrong password."""
    return f"Redis refuses the user or password of {setting}; set the right one"
