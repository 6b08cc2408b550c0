# SPDX-License-Identifier: Apache-2.0
"""Whether spans are sent, and where to."""

import logging
import subprocess
import sys

import pytest

from agentcg.errors import InvalidInput, Unsupported
from agentcg.spans.load import load_spans


def test_nobody_is_sent_any_by_default() -> None:
    assert load_spans(None) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:4318", "https://collector.example/otlp/", "http://[::1]:4318"])
def test_an_address(url: str) -> None:
    assert load_spans(url) is not None


@pytest.mark.parametrize("url", ["", "127.0.0.1:4318", "grpc://x:4317", "http://", "http://x:0", "http://x:port", "/a"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"--otlp: .* is not an address of a collector"):
        load_spans(url)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_the_environment_says_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:4318")
    assert load_spans(None) is not None


def test_without_the_package_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("opentelemetry", "opentelemetry.exporter.otlp.proto.http.trace_exporter", "agentcg.spans.calls"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unsupported, match="OTLP needs the Python package opentelemetry") as caught:
        load_spans("http://127.0.0.1:4318")
    assert caught.value.hint == "pip install 'agentcg[otel]'"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with caplog.at_level(logging.WARNING):
        assert load_spans(None) is None
    assert "no spans are sent: OTLP needs the Python package opentelemetry" in caplog.text


def test_who_sends_none_does_not_load_it() -> None:
    code = "import agentcg.cli.daemon, sys; sys.exit(any(n.startswith('opentelemetry') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
