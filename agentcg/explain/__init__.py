# SPDX-License-Identifier: Apache-2.0
"""Where the time of one running call goes, seen by bcc programs that are there only while somebody looks."""
