# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: a small harness, and one module a bench."""
