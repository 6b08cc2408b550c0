# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server: more sessions than it has slots, and whose slot is taken is decided by a policy.

:mod:`.seats` decides and does no I/O, :mod:`.driver` acts on the server through :mod:`.server`.
"""
