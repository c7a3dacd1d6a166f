"""How are names kept once, however many events carry them, and however many names a file invents?"""

from __future__ import annotations

# A training step of a large model has some thousand names; beyond these limits names become OTHER.
MAX_NAMES = 50_000
MAX_CHARACTERS = 64_000_000
OTHER = 0


class Names:
    """Texts numbered in the order of their first appearance; number 0 stands for all beyond the limits."""

    def __init__(self) -> None:
        self.texts: list[str] = ["(other names)"]
        self.numbers: dict[str, int] = {}
        self._characters = 0

    def number(self, text: str) -> int:
        """The number of a text, a new one if it was not seen before."""
        found = self.numbers.get(text)
        if found is not None:
            return found
        if len(self.texts) >= MAX_NAMES or self._characters + len(text) > MAX_CHARACTERS:
            return OTHER
        self._characters += len(text)
        self.numbers[text] = found = len(self.texts)
        self.texts.append(text)
        return found

    def numbers_of(self, texts: list[str]) -> list[int]:
        """The numbers of many texts."""
        get, number = self.numbers.get, self.number
        return [get(text) or number(text) for text in texts]
