"""What a web application needs around the client; knows no framework.

`http_status(error)` is the one place that says what each error means to an HTTP caller (docs/web.md prints it).
"""

import math
from collections.abc import Mapping

from rerankq.contract.errors import (
    BrokerUnavailable,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    JobFailed,
    JobUnknown,
    NoWorkers,
    PayloadTooLarge,
    QueueFull,
    RerankError,
    ResultTimeout,
)

STATUS: Mapping[type[RerankError], int] = {
    InvalidRequest: 422,
    PayloadTooLarge: 413,
    QueueFull: 429,
    NoWorkers: 503,
    BrokerUnavailable: 503,
    DeadlineExceeded: 504,
    JobFailed: 500,
    ResultTimeout: 202,
    JobUnknown: 404,
    Cancelled: 409,
    InvalidSettings: 500,
}
"""By the nearest class of an error."""


def http_status(error: RerankError) -> tuple[int, dict[str, str]]:
    """The status code that an error means to an HTTP caller, and the headers that go with it."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    if not isinstance(error, QueueFull):
        return status, {}
    return status, {"Retry-After": str(max(math.ceil(error.retry_after_seconds), 1))}
