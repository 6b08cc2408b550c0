# SPDX-License-Identifier: Apache-2.0
"""System calls and what the running kernel can do."""
