# SPDX-License-Identifier: Apache-2.0
"""Agent runtimes that know nothing of agentcg, each with what it takes to have its tool calls managed."""
