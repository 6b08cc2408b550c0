# SPDX-License-Identifier: Apache-2.0
"""Recordings of agent sessions: the model, the file format, importers, and what a replay needs of them."""
