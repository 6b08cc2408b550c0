# SPDX-License-Identifier: Apache-2.0
"""A replay in simulation: a model of one Linux host under one memory limit, without swap."""

from agentcg.replay.simulation.host import SimulatedHost
from agentcg.replay.simulation.simulate import simulate

__all__ = ["SimulatedHost", "simulate"]
