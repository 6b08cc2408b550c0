# SPDX-License-Identifier: Apache-2.0
"""Calls and sessions as OpenTelemetry spans: :mod:`agentcg.spans.load` has whether, :mod:`agentcg.spans.calls` what,
and :mod:`agentcg.spans.delivery` how they leave without holding anybody up."""
