# SPDX-License-Identifier: Apache-2.0
"""The Varlink interfaces on the socket, the server that speaks them and the client."""
