# SPDX-License-Identifier: Apache-2.0
"""What drives the policies inside an LLM server: the part that all engines share, and a package for each engine."""
