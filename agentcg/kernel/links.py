# SPDX-License-Identifier: Apache-2.0
"""The links by which packets leave this host, and what queues them there."""

from __future__ import annotations

import socket

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agentcg.errors import Unsupported

__all__ = ["ways_out"]


def ways_out() -> dict[str, frozenset[str]]:
    """Return the links of the default routes and the kinds of their queueing disciplines, such as ``fq_codel``.

    :raises Unsupported: if the kernel does not tell
    """
    try:
        with IPRoute() as netlink:
            families = (socket.AF_INET, socket.AF_INET6)
            routes = [route for family in families for route in netlink.get_default_routes(family)]
            names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
            kinds = [(queue["index"], queue.get("kind")) for queue in netlink.get_qdiscs()]
    except (OSError, NetlinkError) as error:
        raise Unsupported(f"rtnetlink does not tell of links: {error}") from error
    # One for each queue of the device stands below mq.
    return {
        names[index]: frozenset(kind for owner, kind in kinds if owner == index and kind != "mq")
        for index in {route.get("oif") for route in routes} & names.keys()
    }
