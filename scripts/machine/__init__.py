# SPDX-License-Identifier: Apache-2.0
"""The test machine: a Debian 13 guest with a stock kernel, for what the host's own kernel cannot enforce.

Only the standard library is used, because this runs before any virtual environment exists.
"""
