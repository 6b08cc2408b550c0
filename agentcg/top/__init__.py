# SPDX-License-Identifier: Apache-2.0
"""A live view: what the daemon says (:mod:`agentcg.top.rows`), drawn (:mod:`agentcg.top.frame`), and the keys."""
