# SPDX-License-Identifier: Apache-2.0
"""What past calls came to, and what the next one will need."""
