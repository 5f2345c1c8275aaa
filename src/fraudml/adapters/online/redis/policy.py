"""Whether a server may forget keys on its own."""

from __future__ import annotations

import logging

from redis import exceptions

from fraudml.adapters.online.redis.failures import DRIVER, failure
from fraudml.adapters.online.redis.link import Link
from fraudml.errors import OnlineStoreError

KEEPS = "noeviction"

logger = logging.getLogger(__name__)


def check_policy(link: Link) -> None:
    """Raise OnlineStoreError when a server drops keys while its memory is full: history would silently be missing.

    All lanes have a time to live, so the policies ``volatile-*`` drop them as well as ``allkeys-*`` do.
    """
    for node in link.each_node():
        try:
            policy = node.info("memory").get("maxmemory_policy", KEEPS)
        except exceptions.NoPermissionError:
            logger.warning("Redis does not tell its maxmemory-policy; online state needs noeviction")
            continue
        except DRIVER as error:
            raise failure(error) from error
        if policy != KEEPS:
            raise OnlineStoreError(
                f"Redis has maxmemory-policy {policy}: it would forget parts of online state when its memory is full. "
                "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
            )
