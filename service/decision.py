"""What is decided about a transaction: one of four, ordered by severity."""

from enum import IntEnum


class Decision(IntEnum):
    """Ordered: a larger value interferes more with the payment."""

    APPROVE = 0
    CHALLENGE = 1
    REVIEW = 2
    DECLINE = 3

    @property
    def word(self) -> str:
        """The word used in requests, responses, documents and metrics."""
        return _WORDS[self]

    @classmethod
    def from_word(cls, word: str) -> "Decision":
        """Inverse of `word`.

        Raises:
            KeyError: not one of the four words.
        """
        return cls[word.upper()]


_WORDS = tuple(decision.name.lower() for decision in Decision)  # an enumeration's name is slow to get
