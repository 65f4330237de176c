"""A whole service on this machine for as long as it is wanted: Redis and a worker, nothing to set up.

    with LocalStack() as stack, stack.client() as client:
        client.rerank("capital of China", ["Beijing is ...", "Shanghai is ..."])

For a demo, a test, a first try. It keeps nothing: what was on its queue is gone when it ends.
"""

from rerankq.local.redis_server import NO_REDIS_SERVER, find_redis_server
from rerankq.local.stack import LocalStack, LocalStackFailed

__all__ = ["NO_REDIS_SERVER", "LocalStack", "LocalStackFailed", "find_redis_server"]
