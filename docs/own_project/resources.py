"""A module of the project's own that is called as a package of Retune: both can be imported."""

from pathlib import Path

import dagster as dg

ARTICLES = {
    "opening-hours": "The library opens at nine in the morning on every weekday. On Saturdays it opens at ten. It is "
    "closed on Sundays and on public holidays.",
    "lending": "A book may be kept for four weeks. The loan can be extended twice, unless somebody else has asked for "
    "the book. Reminders are sent three days before the loan ends.",
    "cards": "A library card costs nothing for residents of the town. Bring an identity card and a proof of your "
    "address. Children under twelve need the signature of a parent.",
    "printing": "There are two printers on the ground floor. A page costs ten cents in black and white. Pay at the "
    "desk with coins or with your library card.",
    "rooms": "Rooms for groups of up to six people can be booked for two hours a day. Please book them a day before. "
    "Food is not allowed in the rooms.",
}
RULES = {
    "leave": "Employees tell their manager about planned leave four weeks before. Leave of a single day can be agreed "
    "on the day before. Unused days expire at the end of March.",
    "travel": "Trains are booked through the travel desk. Flights need the consent of the head of the department. "
    "Receipts are handed in within two weeks after the trip.",
    "devices": "Every employee gets a laptop and a telephone. Lost devices are reported on the same day. Devices are "
    "given back on the last day of work.",
}


class Archive(dg.ConfigurableResource):
    """Where this project keeps its texts."""

    folder: str

    def path(self, name: str) -> Path:
        path = Path(self.folder) / name
        path.mkdir(parents=True, exist_ok=True)
        return path
