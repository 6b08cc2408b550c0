# SPDX-License-Identifier: Apache-2.0
"""Simulated replays of many configurations, side by side on one machine or on many."""
