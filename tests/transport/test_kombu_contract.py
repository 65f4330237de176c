"""What the transport relies on inside kombu 5.7 and celery 5.7: a new version that changes any of it fails here.

Each fact is one the code would otherwise only find out about by losing or repeating a job.
"""

import inspect
from collections.abc import Callable
from typing import Any

import celery
import kombu
import pytest
from celery.app import trace as celery_trace
from celery.concurrency import asynpool
from celery.events import dispatcher
from celery.worker import consumer as celery_consumer
from celery.worker import request as celery_request
from celery.worker import state as celery_state
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from rerankq.contract.transport.channel import LeasedChannel, LeasedTransport
from rerankq.contract.transport.poller import Poller
from rerankq.contract.transport.qos import QoS


def test_these_are_the_versions_it_was_written_against():
    assert kombu.__version__.startswith("5.7.")
    assert celery.__version__.startswith("5.7.")


OVERRIDDEN: list[tuple[Callable[..., Any], list[str]]] = [
    (kombu_redis.Channel._brpop_start, ["self", "timeout"]),
    (kombu_redis.Channel._brpop_read, ["self", "options"]),
    (kombu_redis.Channel._put, ["self", "queue", "message", "kwargs"]),
    (kombu_redis.Channel._delete, ["self", "queue", "exchange", "routing_key", "pattern", "args", "kwargs"]),
    (kombu_redis.Channel._purge, ["self", "queue"]),
    (kombu_redis.Channel.conn_or_acquire, ["self", "client"]),
    (kombu_redis.Channel.close, ["self"]),
    (virtual.Channel.basic_get, ["self", "queue", "no_ack", "kwargs"]),
    (virtual.Channel.basic_consume, ["self", "queue", "no_ack", "callback", "consumer_tag", "kwargs"]),
    (kombu_redis.QoS.append, ["self", "message", "delivery_tag"]),
    (kombu_redis.QoS.ack, ["self", "delivery_tag"]),
    (kombu_redis.QoS.reject, ["self", "delivery_tag", "requeue"]),
    (kombu_redis.Channel.get_table, ["self", "exchange"]),
    (kombu_redis.QoS.restore_unacked, ["self", "client"]),
    (kombu_redis.QoS.restore_visible, ["self", "start", "num", "interval"]),
    (kombu_redis.QoS.can_consume, ["self"]),
    (kombu_redis.MultiChannelPoller.get, ["self", "callback", "timeout"]),
    (kombu_redis.Transport.register_with_event_loop, ["self", "connection", "loop"]),
    (virtual.Transport._reject_inbound_message, ["self", "raw_message"]),
    (kombu.Connection.get_transport_cls, ["self"]),
    (kombu.Connection.__eqhash__, ["self"]),
    (celery_consumer.Consumer.create_task_handler, ["self", "promise"]),
    (celery_consumer.Consumer.on_decode_error, ["self", "message", "exc"]),
    (celery_consumer.Consumer.on_unknown_message, ["self", "body", "message"]),
    (celery_consumer.Consumer.on_unknown_task, ["self", "body", "message", "exc"]),
    (celery_consumer.Consumer.on_invalid_task, ["self", "body", "message", "exc"]),
    (celery_consumer.Consumer.on_connection_error_after_connected, ["self", "exc"]),
    (celery_consumer.Consumer.update_strategies, ["self"]),
    (celery_consumer.Consumer.on_send_event_buffered, ["self"]),
    (dispatcher.EventDispatcher.extend_buffer, ["self", "other"]),
    (asynpool.AsynPool._event_process_exit, ["self", "hub", "proc"]),
    (celery_request.Request.on_failure, ["self", "exc_info", "send_failed_event", "return_ok"]),
]


@pytest.mark.parametrize(
    ("method", "parameters"), OVERRIDDEN, ids=[method.__qualname__ for method, _ in OVERRIDDEN]
)
def test_an_overridden_method_still_takes_the_same(method: Callable[..., Any], parameters: list[str]):
    assert list(inspect.signature(method).parameters) == parameters


USED = [
    (kombu_redis.Channel, "_q_for_pri"),
    (kombu_redis.Channel, "_get_message_priority"),
    (kombu_redis.Channel, "_maybe_update_queues_expire"),
    (kombu_redis.Channel, "_flush_brpop_reauth"),
    (kombu_redis.Channel, "conn_or_acquire"),
    (kombu_redis.Channel, "active_queues"),
    (kombu_redis.Channel, "global_keyprefix"),
    (kombu_redis.Channel, "unacked_restore_interval"),
    (kombu_redis.Channel, "_create_client"),
    (kombu_redis.Channel, "pool"),
    (kombu_redis.MultiChannelPoller, "maybe_restore_messages"),
    (kombu_redis.PublishBatch, "add"),
    (virtual.QoS, "_flush"),
    (virtual.Transport, "_deliver"),
    (celery_state, "reserved_requests"),
    (celery_state, "task_ready"),
]


@pytest.mark.parametrize(("owner", "name"), USED, ids=[name for _, name in USED])
def test_an_internal_we_use_is_still_there(owner: object, name: str):
    assert hasattr(owner, name)


USED_IN_ORDER = [
    (
        kombu_redis.Channel._brpop_start,
        ["_queue_cycle.consume", "self._in_poll = ", "self._brpop_sent_at = "],
    ),
    (
        kombu_redis.Channel._brpop_read,
        ["parse_response", "connection.disconnect()", "_queue_cycle.rotate", "_deliver"],
    ),
    (kombu_redis.Channel.close, ["if self._in_poll:", "self._brpop_read()", "except Empty:"]),
    (virtual.Channel.close, ["restore_unacked_once"]),
    (dispatcher.EventDispatcher.flush, ["self._group_buffer.items()", "'%s.multi' % group"]),
    (virtual.QoS.restore_unacked_once, ["self._flush()", "self.restore_unacked()"]),
    (virtual.Channel.basic_consume, ["self.Message(raw_message, channel=self)", "self.qos.append("]),
    (virtual.Message.__init__, ["self._raw = payload", "properties['delivery_tag']"]),
    (kombu_redis.MultiChannelPoller._register_BRPOP, ["if not channel._in_poll:", "channel._brpop_start()"]),
    (kombu_redis.Transport.register_with_event_loop, ["cycle._restore_messages_tref = loop.call_repeatedly"]),
    (kombu_redis.PublishBatch.publish, ["getattr(self.pipeline, name)(*args)"]),
    (celery_request.Request.__init__, ["message.headers.copy()", "request_dict.get('timelimit'"]),
    (celery_request.Request.execute_using_pool, ["time_limit, soft_time_limit = self.time_limits"]),
    (celery_trace.fast_trace_task, ["args, kwargs, embed = loads(", "request.update({", "'args': args"]),
    (celery_trace.trace_task_ret, ["args, kwargs, embed = loads(", "request.update({", "'args': args"]),
    (celery_consumer.Consumer.on_connection_error_after_connected, ["self.connection.collect("]),
]


@pytest.mark.parametrize(
    ("method", "steps"), USED_IN_ORDER, ids=[method.__qualname__ for method, _ in USED_IN_ORDER]
)
def test_a_method_we_build_on_still_does_its_steps_in_this_order(
    method: Callable[..., Any], steps: list[str]
):
    source = inspect.getsource(method)

    places = [source.find(step) for step in steps]

    assert -1 not in places, (
        f"missing: {[step for step, place in zip(steps, places, strict=True) if place < 0]}"
    )
    assert places == sorted(places)


def test_kombu_still_counts_a_missing_key_as_a_lost_connection():
    """Why the worker's guard lists its outage errors itself."""
    assert KeyError in kombu_redis.Transport.connection_errors


def test_our_classes_are_the_ones_kombu_will_use():
    assert LeasedTransport.Channel is LeasedChannel
    assert LeasedChannel.QoS is QoS
    assert issubclass(Poller, kombu_redis.MultiChannelPoller)
