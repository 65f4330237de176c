"""What can be asked of the HTTP face, and what it answers, as an OpenAPI document: written by hand, tried on all.

Each client's leniency is in it: what is here called a number may come as its digits, and null is as good as nothing.
"""

from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response

from rerankq import __version__
from rerankq.contract import wire
from rerankq.contract.messages import LANES, LongDocuments
from rerankq.http import ranking
from rerankq.http.batch import MAX_REQUESTS
from rerankq.http.dialects import TEXT_FIELDS
from rerankq.http.jobs import LONGEST_WAIT_SECONDS

Schema = dict[str, Any]

NOTHING: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
DIGITS: Schema = {"type": "string", "pattern": "^[0-9]{1,300}$"}
TRUE: Schema = {"enum": [True, 1, "true", "True", "1", "yes", "on"]}
FALSE: Schema = {"enum": [False, 0, "false", "False", "0", "no", "off", None]}
JSON = "application/json"

REFUSALS = {
    400: "It is no JSON, or asks nothing.",
    401: "No key of ours was shown.",
    403: "No key is set, so that only programs of the same machine are answered.",
    404: "There is no such thing, or the model is not served here.",
    408: "The body came too slowly.",
    409: "It conflicts with what is there, or was called off.",
    413: "It is over a limit.",
    415: "The body is compressed.",
    422: "A field is wrong; `error.param` names it.",
    429: "More is asked than can be answered; `Retry-After` says when to come back.",
    500: "The job was given up, or a bug of the service.",
    503: "Redis does not answer, or no worker is there.",
    504: "It was not answered in time.",
}
OF_ANY = (401, 403, 500, 503)
OF_A_BODY = (400, 408, 413, 415, 422, 429)


async def openapi(request: Request) -> Response:
    """The document."""
    told = document(request.scope.get("root_path", "") or "/")
    return Response(wire.encode(told), media_type=JSON)


def document(server: str = "/") -> dict[str, Any]:
    """The document of a face that is found there."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rerankq",
            "version": __version__,
            "summary": "Documents ordered by relevance to a query, by a queue that loses nothing.",
            "description": "One base URL for the reranking clients of Cohere, Jina, Voyage, TEI and those like them, "
            "told apart by the body. docs/http.md of the project is its manual.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{"bearer": []}, {"key": []}],
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": _KEYS, "headers": _HEADERS},
    }


_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "Api-Key"},
}
_HEADERS = {
    "RetryAfter": {
        "description": "Seconds until asking again is of use.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Location": {"description": "Where the job is asked for.", "required": True, "schema": TEXT},
}


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/": {
            "get": _open(_plain("A page to try it on.", TEXT, "text/html")),
        },
        **{path: {"post": _rerank(path)} for path in ranking.PATHS},
        "/v1/rerank/batch": {"post": _BATCH},
        "/v1/jobs": {"post": _SUBMIT},
        "/v1/jobs/{job_id}": {"parameters": [_JOB_ID], "get": _ASK, "delete": _CALL_OFF},
        "/health": {"get": _open(_HEALTH)},
        "/health/ready": {
            "get": _open(_get("Whether jobs are taken.", _object({"status": {"const": "ok"}}), 503))
        },
        "/v1/models": {"get": _get("The models that are served, as OpenAI lists them.", _ref("Models"))},
        "/info": {"get": _get("The model and the limits, as TEI tells them.", _ref("Info"))},
        "/v1/state": {"get": _get("The lanes and the workers, as they are now.", _ref("State"))},
        "/metrics": {"get": _get("For Prometheus.", TEXT, media_type="text/plain")},
        "/openapi.json": {"get": _open(_plain("This document.", {"type": "object"}))},
    }
    for path, operations in paths.items():
        operations.get("get", {}).setdefault("operationId", _name(path))
    return paths


def _name(path: str) -> str:
    """What programs that are made of the document call an operation."""
    return (
        "_".join(part.removesuffix(".json") for part in path.split("/") if part not in ("", "v1")) or "page"
    )


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _any(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _object(properties: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties | (optional or {})}


def _reply(
    description: str, schema: Schema, media_type: str = JSON, headers: tuple[str, ...] = ()
) -> dict[str, Any]:
    named = {name: {"$ref": f"#/components/headers/{name.replace('-', '')}"} for name in headers}
    told = {"description": description, "content": {media_type: {"schema": schema}}}
    return told | ({"headers": named} if named else {})


def _refusals(*statuses: int) -> dict[str, Any]:
    by_hint = {429: ("Retry-After",), 503: ("Retry-After",)}
    return {
        str(status): _reply(REFUSALS[status], _ref("Error"), headers=by_hint.get(status, ()))
        for status in sorted({*statuses, *OF_ANY})
    }


def _open(operation: dict[str, Any]) -> dict[str, Any]:
    """One that needs no key."""
    return operation | {"security": []}


def _get(summary: str, schema: Schema, *statuses: int, media_type: str = JSON) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": _reply("It.", schema, media_type), **_refusals(*statuses)},
    }


def _plain(summary: str, schema: Schema, media_type: str = JSON) -> dict[str, Any]:
    """One that cannot be refused."""
    return {"summary": summary, "responses": {"200": _reply("It.", schema, media_type)}}


def _body(schema: Schema, *, example: Any) -> dict[str, Any]:
    return {"required": True, "content": {JSON: {"schema": schema, "example": example}}}


_EXAMPLE = {"query": "capital of China", "documents": ["Shanghai is large.", "Beijing is the capital."]}

_TIMEOUT = {
    "name": "X-Timeout-Seconds",
    "in": "header",
    "description": "How long the caller waits; also the deadline of what is asked.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_JOB_ID = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127}$"},
}


def _rerank(path: str) -> dict[str, Any]:
    return {
        "summary": "Documents by relevance, in the words of whoever asks.",
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": [_TIMEOUT],
        "requestBody": _body(_ref("RerankRequest"), example=_EXAMPLE),
        "responses": {
            "200": _reply("The ranking: a list for `texts`, an object for all others.", _ref("AnyRanking")),
            **_refusals(*OF_A_BODY, 404, 504),
        },
    }


_BATCH = {
    "summary": "Many requests at once, an answer or an error each, in order.",
    "operationId": "batch",
    "parameters": [_TIMEOUT],
    "requestBody": _body(_ref("BatchRequest"), example=[_EXAMPLE]),
    "responses": {"200": _reply("What each came to.", _ref("Batch")), **_refusals(*OF_A_BODY, 504)},
}

_OF_THE_JOB = {"job_id": "$response.body#/id"}

_SUBMIT = {
    "summary": "Accept a job that outlives this request.",
    "operationId": "submit",
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "With the same body it is the same job, answered once. A body's `id` goes before it.",
            "schema": {"type": "string", "pattern": "^[!#-~]([ !#-~]{0,253}[!#-~])?$"},
        }
    ],
    "requestBody": _body(_ref("JobRequest"), example=_EXAMPLE | {"timeout": 600}),
    "responses": {
        "202": _reply("It is accepted, now or before.", _ref("Job"), headers=("Location", "Retry-After"))
        | {
            "links": {
                "ask": {"operationId": "ask", "parameters": _OF_THE_JOB},
                "call_off": {"operationId": "call_off", "parameters": _OF_THE_JOB},
            }
        },
        **_refusals(*OF_A_BODY, 404, 409),
    },
}

_ASK = {
    "summary": "Where a job stands, with its ranking or its error once it has ended.",
    "operationId": "ask",
    "parameters": [
        {
            "name": "wait",
            "in": "query",
            "description": "Seconds to wait for its end.",
            "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT_SECONDS, "default": 0},
        }
    ],
    "responses": {
        "200": _reply("It is known.", _ref("Job"), headers=("Retry-After",)),
        **_refusals(404, 422, 429),
    },
}

_CALL_OFF = {
    "summary": "Call a job off.",
    "operationId": "call_off",
    "responses": {"204": {"description": "It is called off, now or before."}, **_refusals(404, 409, 422)},
}

_HEALTH = {
    "summary": "Whether a ranking can be had: Redis answers, and a worker is ready to score.",
    "responses": {
        "200": _reply("It can.", _ref("Health")),
        "503": _reply("It cannot; `message` says what is missing.", _ref("Health"), headers=("Retry-After",)),
    },
}


def _schemas() -> dict[str, Schema]:
    flag = {"anyOf": [TRUE, FALSE]}
    number = _any(COUNT, DIGITS, NOTHING)
    limit = _any({"type": "integer", "minimum": -1}, DIGITS, NOTHING)
    threshold = _any(NUMBER, DIGITS, NOTHING)
    query = {"type": "string", "pattern": r"[^\s\x1c-\x1f\x85]"}
    text_or_nothing = _any(TEXT, NOTHING)
    document_object = {
        "type": "object",
        "description": "The first of these fields is its text, unless `rank_fields` of the request names others.",
        "properties": dict.fromkeys(TEXT_FIELDS, text_or_nothing) | {"id": {"description": "Comes back."}},
        "anyOf": [{"required": [name], "properties": {name: TEXT}} for name in TEXT_FIELDS],
    }
    documents = _list(_any(TEXT, _ref("Document")), minItems=1)
    options: dict[str, Schema] = {
        "query": _any(query, {"type": "object", "required": ["text"], "properties": {"text": query}}),
        "model": {
            "type": ["string", "null"],
            "description": "A name with a slash must be the one that is served.",
        },
        "top_n": number,
        "top_k": number,
        "max_tokens_per_doc": limit,
        "max_doc_length": limit,
        "truncate_prompt_tokens": limit,
        "truncation": flag,
        "truncate": flag,
        "raw_scores": flag,
        "use_activation": flag,
        "activation": flag,
        "return_documents": flag,
        "return_input": flag,
        "return_text": flag,
        "score_threshold": threshold,
        "relevance_threshold": threshold,
        "threshold": threshold,
        "long_documents": {"enum": [*get_args(LongDocuments), None]},
        "max_windows_per_doc": number,
        "max_chunks_per_doc": number,
        "instruction": text_or_nothing,
        "instruct": text_or_nothing,
        "chat_template_kwargs": {"description": "Of an object the `instruction`."},
        "on_deadline": {"enum": ["fail", "partial", None]},
    }

    def asks(required: str, **texts: Schema) -> Schema:
        return {"type": "object", "required": ["query", required], "properties": options | texts}

    rows = _list(_ref("Row"))
    read = {"truncated": {"const": True}, "window": _ref("Window")}
    return {
        "Document": document_object,
        "CohereRequest": asks("documents", documents=documents, texts=NOTHING, input=NOTHING),
        "MixedbreadRequest": asks("input", input=documents, texts=NOTHING),
        "TeiRequest": asks("texts", texts=documents),
        "RerankRequest": _any(*map(_ref, ("CohereRequest", "MixedbreadRequest", "TeiRequest"))),
        "BatchRequest": _any(
            _list(_ref("AnyRequest"), minItems=1, maxItems=MAX_REQUESTS),
            {
                "type": "object",
                "required": ["requests"],
                "properties": {
                    "requests": _list(_ref("AnyRequest"), minItems=1, maxItems=MAX_REQUESTS),
                    **_times(),
                },
                **_one_time,
                "description": "What stands beside `requests` holds for each that does not say so itself.",
            },
        ),
        "AnyRequest": {
            "description": "A RerankRequest, with `lane` too; what is wrong with one is told for it alone."
        },
        "JobRequest": {
            "allOf": [
                _ref("RerankRequest"),
                {
                    "properties": {
                        "id": _any(
                            {"type": "string", "pattern": "^[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127}$"},
                            {"type": "integer"},
                            NOTHING,
                        ),
                        "lane": {"enum": [*LANES, None], "default": "bulk"},
                        **_times(),
                        "return_documents": FALSE,
                        "return_input": FALSE,
                        "return_text": FALSE,
                    },
                    **_one_time,
                },
            ]
        },
        "Row": _object(
            {"index": COUNT, "relevance_score": NUMBER, "score": NUMBER},
            {**read, "id": {}, "document": _any(TEXT, {"type": "object"}), "input": {}},
        ),
        "Window": _object({"index": COUNT, "total": COUNT, "start": COUNT, "end": COUNT}),
        "Ranking": _object(
            {
                "id": TEXT,
                "object": TEXT,
                "model": TEXT,
                "results": rows,
                "data": rows,
                "meta": {"type": "object"},
                "usage": _object(
                    {"total_tokens": COUNT, "prompt_tokens": COUNT, "rerank_units": COUNT, "pairs": COUNT}
                ),
                "complete": {"type": "boolean"},
                "scored": COUNT,
                "total": COUNT,
                "worker": _object(dict.fromkeys(("name", "device", "dtype", "engine", "revision"), TEXT)),
                "timings": {"type": "object", "additionalProperties": NUMBER},
            }
        ),
        "TeiRanking": _list(_object({"index": COUNT, "score": NUMBER}, {"text": TEXT, **read})),
        "AnyRanking": _any(_ref("Ranking"), _ref("TeiRanking")),
        "Batch": _object(
            {
                "object": {"const": "list"},
                "data": _list(
                    _any(
                        _object({"index": COUNT, "status": {"const": 200}, "ranking": _ref("AnyRanking")}),
                        _object({"index": COUNT, "status": COUNT, "error": _ref("Problem")}),
                    )
                ),
            }
        ),
        "Job": _object(
            {
                "id": TEXT,
                "object": {"const": "job"},
                "state": {
                    "enum": ["queued", "running", "done", "failed", "dead", "cancelled", "expired", "unknown"]
                },
                "lane": {"enum": [*LANES, None]},
                "scored": COUNT,
                "total": COUNT,
                "attempts": COUNT,
                "submitted_at": _any(NUMBER, NOTHING),
                "worker": text_or_nothing,
                "is_paused": {"type": "boolean"},
            },
            {"ranking": _ref("Ranking"), "error": _ref("Problem")},
        ),
        "Problem": _object(
            {
                "message": TEXT,
                "type": TEXT,
                "param": text_or_nothing,
                "code": {"type": "integer", "minimum": 400, "maximum": 599},
            }
        ),
        "Error": _any(
            _object({"message": TEXT, "detail": TEXT, "error": _ref("Problem"), "id": TEXT}),
            _object({"error": TEXT, "error_type": TEXT}),
        ),
        "Health": _object(
            {"status": {"enum": ["ok", "unavailable"]}, "redis": {"type": "boolean"}, "workers": COUNT},
            {"message": TEXT},
        ),
        "Models": _object({"object": {"const": "list"}, "data": _list(_ref("Model"))}),
        "Model": _object(
            {
                "id": TEXT,
                "object": {"const": "model"},
                "created": COUNT,
                "owned_by": TEXT,
                "revision": text_or_nothing,
                "serves_unnamed": {"type": "boolean"},
                **dict.fromkeys(("devices", "engines", "dtypes"), _list(TEXT)),
            }
        ),
        "Info": _object(
            {
                "model_id": TEXT,
                "model_sha": text_or_nothing,
                "model_dtype": TEXT,
                **dict.fromkeys(("engine", "family", "scale"), TEXT),
                "served_model_name": TEXT,
                "model_type": _object(
                    {"reranker": _object({"id2label": {"type": "object"}, "label2id": {"type": "object"}})}
                ),
                "max_concurrent_requests": COUNT,
                "max_input_length": COUNT,
                "max_batch_tokens": COUNT,
                "max_client_batch_size": COUNT,
                "auto_truncate": {"type": "boolean"},
                "tokenization_workers": COUNT,
                "version": TEXT,
                **dict.fromkeys(("sha", "docker_label", "max_batch_requests"), NOTHING),
            }
        ),
        "State": _object(
            {
                "lanes": _object(
                    {lane: _object({"jobs": COUNT, "is_paused": {"type": "boolean"}}) for lane in LANES}
                ),
                "workers": _list(_ref("Worker")),
                "redis": {"const": True},
            }
        ),
        "Worker": _object(
            {
                "name": TEXT,
                "state": TEXT,
                "lanes": _list({"enum": [*LANES]}),
                "device": TEXT,
                "dtype": TEXT,
                "model": TEXT,
                "revision": TEXT,
                **dict.fromkeys(("engine", "family", "scale"), TEXT),
                "serves_unnamed": {"type": "boolean"},
                "pairs_per_second": _any(NUMBER, NOTHING),
                "seen_seconds_ago": NUMBER,
            }
        ),
    }


def _times() -> dict[str, Schema]:
    return {
        "timeout": {"type": ["number", "null"], "exclusiveMinimum": 0, "description": "Seconds from now."},
        "deadline": {"type": ["number", "null"], "description": "Unix seconds; in place of `timeout`."},
    }


_one_time: Schema = {"anyOf": [{"properties": {name: NOTHING}} for name in ("timeout", "deadline")]}
