# SPDX-License-Identifier: Apache-2.0
"""What the daemon counts, for Prometheus: :mod:`agentcg.metrics.collect` has what, :mod:`agentcg.metrics.serve` how."""
