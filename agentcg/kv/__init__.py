# SPDX-License-Identifier: Apache-2.0
"""Whose KV cache stays on the LLM server while its session waits for a tool call: the mathematics and the policies.

Nothing here has a clock or does I/O: time is passed in, in seconds of any one clock.
"""
