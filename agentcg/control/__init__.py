# SPDX-License-Identifier: Apache-2.0
"""The live sessions and calls, and what is done about them."""
