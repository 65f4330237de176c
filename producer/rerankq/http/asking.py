"""A body as a request for the queue: in which lane, and by when."""

import math
from typing import Any

from rerankq.contract.messages import RequestOptions, RerankRequest
from rerankq.http import dialects
from rerankq.http.deadlines import deadline_of
from rerankq.http.dialects import Asked
from rerankq.http.ranking import served_model
from rerankq.http.service import Service


async def as_request(service: Service, body: Any, latest: float = math.inf) -> tuple[Asked, RerankRequest]:
    """What a body of any dialect asks for, with `lane` (`bulk` when not told), `deadline` and `timeout` beside it.

    Args:
        latest: Unix seconds; no deadline is later.

    Raises:
        InvalidRequest: naming the field and what is wrong with it.
        Refusal: the model that is meant is not served.
    """
    asked = dialects.read(body, max_documents=service.settings.max_documents)
    deadline = min(deadline_of(body), latest)
    options: RequestOptions = {
        **asked.options,
        "model": await served_model(service, asked.model),
        "lane": "bulk" if body.get("lane") is None else body["lane"],
        "deadline": None if deadline == math.inf else deadline,
    }
    return asked, service.client.request(asked.query, asked.documents, **options)
