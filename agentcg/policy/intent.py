# SPDX-License-Identifier: Apache-2.0
"""Intents laid over one another: the call's over the hint's, an amendment over what was declared before."""

import dataclasses

from agentcg.model import Intent

__all__ = ["merge"]


def merge(intent_over: Intent, intent_under: Intent) -> Intent:
    """Return an intent with every field of ``intent_over``, and those of ``intent_under`` that it leaves out.

    The result may expect more memory than its maximum when the two came from different hands: the maximum holds.
    """
    under = {field.name: getattr(intent_under, field.name) for field in dataclasses.fields(Intent)}
    over = {name: getattr(intent_over, name) for name in under}
    return Intent(**(under | {name: value for name, value in over.items() if value is not None}))
