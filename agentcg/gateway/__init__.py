# SPDX-License-Identifier: Apache-2.0
"""A proxy before an OpenAI-compatible server that knows who asks, and when its turns begin and end.

Whatever becomes of what it knows, a request goes on: :mod:`.proxy` passes it through, :mod:`.turns` is asked what
there is to it, and its faults end there.
"""
