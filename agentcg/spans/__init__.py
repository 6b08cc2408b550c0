# SPDX-License-Identifier: Apache-2.0
"""Calls and sessions as OpenTelemetry spans."""
