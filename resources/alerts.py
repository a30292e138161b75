"""Alerts: a line in the log, and a POST to a webhook where one is set."""

from __future__ import annotations

import json
import logging
import os
from urllib.error import HTTPError
from urllib.request import Request

from resources.http_client import opener

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10


def send_alert(webhook_variable: str, event: str, text: str) -> bool:
    """Log ``text`` and post ``{"event": ..., "text": ...}`` (JSON); returns whether it was delivered.

    An alert that cannot be delivered is logged; it never fails the work that it is about.

    Args:
        webhook_variable: names the environment variable with the webhook's address. The address is often a secret
            itself, so it is read when needed and never kept or shown.
    """
    log.warning("%s: %s", event, text)
    address = os.environ.get(webhook_variable)
    if not address:
        return False
    body = json.dumps({"event": event, "text": text}).encode()
    try:
        request = Request(address, body, {"Content-Type": "application/json"})
        with opener(address).open(request, timeout=TIMEOUT_SECONDS):
            return True
    except HTTPError as error:
        reason = f"it answered {error.code}"
    except (OSError, ValueError) as error:
        reason = type(error).__name__
    log.warning("the webhook in %s did not take the alert: %s", webhook_variable, reason)
    return False
