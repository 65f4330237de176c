"""A whole service on this machine for as long as it is wanted: Redis and a worker, nothing to set up.

    from rerankq.local.stack import LocalStack

    with LocalStack() as stack, stack.client() as client:
        client.rerank("capital of China", ["Beijing is ...", "Shanghai is ..."])

For a demo, a test, a first try. It keeps nothing: what was on its queue is gone when it ends.
"""
