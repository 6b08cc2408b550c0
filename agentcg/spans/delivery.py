# SPDX-License-Identifier: Apache-2.0
"""From the loop to a collector: a thread sends what was handed over, and what it cannot send in time is dropped."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

__all__ = ["QUEUE", "Delivery"]

log = logging.getLogger(__name__)

QUEUE = 2048
"""Spans that wait or are being sent; one more is dropped."""


class Delivery(SpanProcessor):
    """Hands spans to ``exporter``, on a thread of its own, and counts what becomes of them."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = _Exporter(exporter)
        self._batches = BatchSpanProcessor(self._exporter, max_queue_size=QUEUE)
        self._handed = self._turned_away = 0

    @property
    def sent(self) -> int:
        """How many the collector has taken."""
        return self._exporter.sent

    @property
    def dropped(self) -> int:
        """How many are lost: there was no room for them, or the collector did not take them."""
        return self._turned_away + self._exporter.failed

    @property
    def waiting(self) -> int:
        """How many are still to be sent."""
        return self._handed - self._exporter.sent - self._exporter.failed

    def on_end(self, span: ReadableSpan) -> None:
        """Hand over a span. Never waits."""
        if self.waiting >= QUEUE:
            self._turned_away += 1
            return
        self._handed += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits. That can take as long as the exporter tries."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _Exporter(SpanExporter):
    """Counts what another one sends, and says when it begins to fail and when it does not any more."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.sent = self.failed = 0
        self._failing = False
        self._why = _Why()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch. On the thread that sends."""
        self._why.text = ""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            failed = result is not SpanExportResult.SUCCESS
            self.sent, self.failed = self.sent + len(spans) * (not failed), self.failed + len(spans) * failed
            if failed and not self._failing:
                log.warning("spans are dropped until the collector takes them: %s", self._why.text or "it does not say")
            elif self._failing and not failed:
                log.info("the collector takes spans again; %d were dropped", self.failed)
            self._failing = failed
        return result

    def shutdown(self) -> None:
        """Send no more."""
        self._inner.shutdown()


class _Why(logging.Handler):
    """Keeps the first thing that OpenTelemetry says of a failure. It says more, at every batch: the log has it once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        """Called for each record, on whatever thread it is of."""
        self.text = self.text or record.getMessage()
