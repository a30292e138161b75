"""Telling people: a line in the log, and a POST to a webhook where one is set."""

from __future__ import annotations

import logging
import os
from typing import Any

import dagster as dg
import httpx

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10


class AlertsResource(dg.ConfigurableResource[Any]):
    """Injected wherever something went wrong that nobody may be looking at.

    ``webhook_variable`` names the environment variable with the webhook's address. The address is often a secret
    itself, so it is read when needed and never kept or shown.
    """

    webhook_variable: str = "RETUNE_ALERT_WEBHOOK"

    def send(self, event: str, text: str) -> bool:
        """Log ``text`` and post ``{"event": ..., "text": ...}`` (JSON); returns whether it was delivered.

        An alert that cannot be delivered is logged; it never fails the work that it is about.
        """
        log.warning("%s: %s", event, text)
        address = os.environ.get(self.webhook_variable)
        if not address:
            return False
        try:
            answer = httpx.post(address, json={"event": event, "text": text}, timeout=TIMEOUT_SECONDS)
            delivered = answer.is_success
            reason = f"it answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            delivered, reason = False, type(error).__name__
        if not delivered:
            log.warning("the webhook in %s did not take the alert: %s", self.webhook_variable, reason)
        return delivered
