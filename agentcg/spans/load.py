# SPDX-License-Identifier: Apache-2.0
"""Whether spans are sent, and where to. OpenTelemetry is imported only if they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentcg.control.registry import Registry
from agentcg.errors import InvalidInput, missing_extra

if TYPE_CHECKING:
    from agentcg.spans.calls import Spans

__all__ = ["load_spans"]

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Where the environment says that a collector is: opentelemetry.io/docs/specs/otel/protocol/exporter."""


def load_spans(otlp: str | None) -> Callable[[Registry], Spans] | None:
    """Return what starts to send spans of a registry's calls, or None if nobody wants them.

    :param otlp: the collector's address; without one the environment may have it
    :raises InvalidInput: if that is no address
    :raises Unsupported: if the package that it takes is not installed; where only the environment asks, it is logged
    """
    endpoint = None if otlp is None else _traces(otlp)
    if endpoint is None and not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from agentcg.spans.calls import Spans
    except ModuleNotFoundError as error:
        missing = missing_extra("OTLP", error, "otel")
        if endpoint is None:  # What is set for the whole host was not asked of this daemon.
            log.warning("no spans are sent: %s", missing.line)
            return None
        raise missing from error
    return lambda registry: Spans(registry, OTLPSpanExporter(endpoint))


def _traces(otlp: str) -> str:
    """Return where a collector takes spans. :raises InvalidInput: for what is no address of one"""
    try:
        parts = urlsplit(otlp)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0):
            return f"{otlp.rstrip('/')}/v1/traces"
    except ValueError:  # The port is none.
        pass
    raise InvalidInput("--otlp", f"{otlp[:80]!r} is not an address of a collector", hint="write http://127.0.0.1:4318")
