"""The page at `/`: one static file, under a policy by which a browser runs what is in the file and nothing else."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


async def page(request: Request) -> Response:
    """The page, or 304 where the browser has it already."""
    headers = _headers()
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    return Response(_html(), headers=headers, media_type="text/html")


@cache
def _html() -> str:
    return files("rerankq.http").joinpath("page.html").read_text(encoding="utf-8")


@cache
def _headers() -> dict[str, str]:
    return {
        "Content-Security-Policy": _policy(_html()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(_html().encode()).hexdigest()[:32]}"',
    }


def _policy(html: str) -> str:
    """What a browser may do with it: run the file's own inline blocks, told by their hashes, and ask its own origin."""
    hashes = {"script": "", "style": ""}
    for name, block in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        hashes[name] += f" 'sha256-{digest}'"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src{hashes['script']}",
            f"style-src{hashes['style']}",
            "img-src data:",  # its icon
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # no text becomes HTML, even by a slip of ours
            "trusted-types 'none'",
        ]
    )
