"""What is decided about a transaction: one of four, ordered by severity."""

from enum import IntEnum


class Decision(IntEnum):
    """Ordered: a larger value interferes more with the payment."""

    APPROVE = 0
    CHALLENGE = 1
    REVIEW = 2
    DECLINE = 3

    def __init__(self, _severity: int) -> None:
        self.word = self.name.lower()  # as in requests, responses, documents and metrics

    @classmethod
    def from_word(cls, word: str) -> "Decision":
        """Inverse of `word`.

        Raises:
            KeyError: not one of the four words.
        """
        return cls[word.upper()]
