# SPDX-License-Identifier: Apache-2.0
"""Where agents and their calls run."""
