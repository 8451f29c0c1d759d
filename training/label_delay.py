"""The label delay of a feature spec: how long its windows wait until a fraud would have been reported."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from service.errors import DataInvalid

MINUTES_PER_DAY = 24 * 60


def with_label_delay(document: Mapping[str, Any], days: float) -> dict[str, Any]:
    """A spec in which every window that waits for labels waits this long.

    Windows without a delay stay as they are: they do not wait, or count what is reported when it is.

    Args:
        document: a spec as read from YAML.
        days: whole minutes of them; the hops of these windows must divide them, as the spec's checks will say.

    Raises:
        DataInvalid: less than a minute can tell.
    """
    minutes = round(days * MINUTES_PER_DAY)
    if days < 0 or abs(minutes - days * MINUTES_PER_DAY) > 1e-6:  # noqa: PLR2004 - float64
        raise DataInvalid(f"a label delay is whole minutes, at least 0, got {days} days")
    changed: dict[str, Any] = deepcopy(dict(document))
    for entity in changed["entities"].values():
        for window in entity.get("windows", {}).values():
            if "delay" in window:
                del window["delay"]
                if minutes:
                    window["delay"] = f"{minutes}m"
    return changed
