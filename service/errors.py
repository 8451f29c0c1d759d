"""What can go wrong while Touchstone runs, as one tree. Nothing here knows HTTP; `api/problems.py` maps it.

TouchstoneError
  x SettingsInvalid        a setting is unknown or out of range                    the process does not start
  x SpecInvalid            a feature spec says something impossible                bundle or training refused
  x BundleInvalid          a bundle cannot be trusted                              the process does not start
  x StateInvalid           the state directory holds a file that was altered       the process does not start
  x ProviderUnavailable    the asked-for accelerator is not there                  the process does not start
  x DataInvalid            a data set lacks a column or holds an impossible value  the training run stops
  x RequestInvalid         every fault of a request, each with its field           422
  x ThresholdsInvalid      every fault of a thresholds document, each with a path  422
  x VersionNeeded          the author did not say which thresholds they changed    428
  x VersionConflict        somebody published thresholds in between                412
  x NotWritable            the state directory cannot be written                   503
  x StoreUnavailable       the store cannot be used, or did not answer in time     503, or the process does not start
    x StoreUnreachable     nobody answers at its address                           503; the process starts without it
  x IdempotencyConflict    the transaction id was used with another body           409
  x OutcomeKeysNeeded      we hold no record of this transaction; send its keys    404
  x NotFound               there is nothing under this name                        404
"""

from collections.abc import Sequence
from dataclasses import dataclass


class TouchstoneError(Exception):
    """The root: an operating error with a message for the person who can act on it."""


class SettingsInvalid(TouchstoneError):
    """A setting is unknown, of the wrong type or out of range."""


class BundleInvalid(TouchstoneError):
    """A bundle is incomplete, altered, or does not compute what training saw."""


class StateInvalid(TouchstoneError):
    """A file in the state directory is unreadable or was altered, so what was published is not known."""


class ProviderUnavailable(TouchstoneError):
    """The execution provider asked for by name is not in this installation."""


class DataInvalid(TouchstoneError):
    """A data set lacks a column or holds a value the engine cannot take."""


class NotWritable(TouchstoneError):
    """The state directory cannot be written, so nothing was published."""


class StoreUnavailable(TouchstoneError):
    """The store cannot be reached, or did not answer in time: nothing was lost, and nothing was done for certain."""


class StoreUnreachable(StoreUnavailable):
    """Nobody answers at the store's address: it may be back any moment."""


class IdempotencyConflict(TouchstoneError):
    """The transaction id was used before with another body."""


class OutcomeKeysNeeded(TouchstoneError):
    """No record of the transaction is held, so the outcome must carry its keys."""


class NotFound(TouchstoneError):
    """There is nothing under this name."""


class VersionNeeded(TouchstoneError):
    """A change of the thresholds must name the version it was made from."""


class VersionConflict(TouchstoneError):
    """The thresholds changed since the author read them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, and what was expected. Never the value itself."""

    path: str
    reason: str


class FaultsError(TouchstoneError):
    """Several faults found in one pass, so that the author fixes them in one go."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        assert faults, "an error without a fault"
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.path}: {fault.reason}" for fault in faults))


class SpecInvalid(FaultsError):
    """A feature spec is not one the engine can run."""


class RequestInvalid(FaultsError):
    """A request does not follow the contract; the first fault's code is the error's."""

    def __init__(self, faults: Sequence[Fault], *, code: str = "invalid_request") -> None:
        self.code = code
        super().__init__(faults)


class ThresholdsInvalid(FaultsError):
    """A thresholds document is refused whole."""
