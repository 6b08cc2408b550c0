# SPDX-License-Identifier: Apache-2.0
"""The only code that touches cgroupfs. Only cgroup v2 is supported."""
