# SPDX-License-Identifier: Apache-2.0
"""A simulator of one LLM server beside its sessions' tool calls. Times are simulated seconds, contexts are tokens."""
