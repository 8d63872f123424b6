"""A page for Prometheus, through ``prometheus_client``.

Which is imported when the page is made, and not before: gevent's patching has to come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flask import Response

from .statistics import Statistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .extension import WebSocket

# By the name of the count: that of the metric, and what it says.
_COUNTERS = {
    "opened": ("websocket_connections_opened", "WebSocket connections opened"),
    "messages_received": ("websocket_messages_received", "Messages from clients"),
    "messages_sent": ("websocket_messages_sent", "Messages to clients"),
    "bytes_received": ("websocket_received_bytes", "Bytes from clients"),
    "bytes_sent": ("websocket_sent_bytes", "Bytes to clients"),
    "slow_clients": ("websocket_slow_clients", "Clients that took no bytes for send_timeout"),
    "ping_timeouts": ("websocket_ping_timeouts", "Clients that did not answer a Ping in time"),
    "handler_errors": ("websocket_handler_errors", "Handlers that raised"),
    "shared_frames": ("websocket_shared_frames", "Frames made for rooms and broadcasts"),
    "shared_messages": ("websocket_shared_messages", "Messages that were sent with these"),
    "queue_lost": ("websocket_queue_lost", "Messages of the queue that did not arrive"),
}


class WebSocketCollector:
    """What the workers have counted, with the label ``worker``.

    :param statistics: of the extension.
    """

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        workers = self._statistics.workers()
        gauge = GaugeMetricFamily(
            "websocket_connections", "WebSocket connections now", labels=["worker"]
        )
        unsent = GaugeMetricFamily(
            "websocket_unsent_bytes", "Bytes that wait to be sent to clients", labels=["worker"]
        )
        closed = CounterMetricFamily(
            "websocket_connections_closed",
            "WebSocket connections that have ended, by close code",
            labels=["worker", "code"],
        )
        counters = {
            name: CounterMetricFamily(metric, text, labels=["worker"])
            for name, (metric, text) in _COUNTERS.items()
        }
        for number, counts in workers.items():
            worker = str(number)
            gauge.add_metric([worker], counts["open"])
            unsent.add_metric([worker], counts["unsent"])
            for name, family in counters.items():
                family.add_metric([worker], counts[name])
            for name, count in counts.items():
                if name.startswith("closed.") and count:
                    closed.add_metric([worker, name.removeprefix("closed.")], count)
        yield gauge
        yield unsent
        yield closed
        yield from counters.values()


def prometheus_page(websocket: WebSocket) -> Callable[[], Response]:
    """Make a view that answers a scrape of Prometheus.

    To be called when the app is loaded, so that one worker's answer tells of all::

        app.add_url_rule("/metrics", view_func=prometheus_page(websocket))

    :param websocket: the extension whose connections it tells of.
    :raises ImportError: without ``prometheus_client``.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ModuleNotFoundError:
        raise ImportError(
            "the page for Prometheus needs its client: pip install prometheus-client"
        ) from None
    registry = CollectorRegistry()
    registry.register(WebSocketCollector(websocket.statistics()))

    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return metrics
