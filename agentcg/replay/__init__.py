# SPDX-License-Identifier: Apache-2.0
"""Recorded sessions run again: live, with real memory and CPU time in real cgroups."""
