# SPDX-License-Identifier: Apache-2.0
"""Runs as one page for a browser: which arm is ahead and how sure that is, what happened when, and why."""
