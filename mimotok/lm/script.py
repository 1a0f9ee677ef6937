"""A text that a model is to speak, a unit at a time: it decides alone when it has enough of it to go on speaking.

Kyutai's delayed streams (2025) feed a speaking model its words so, each as the model asks for it. Here a unit (a phone,
a word) stands in the sequence itself, before the patches in which it is spoken.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mimotok.lm.interleaving import SpecialIds


class Script:
    """What one sequence is still to say.

    After a stretch of speech at least one unit is taken. From then on the next unit is taken as long as the model finds
    it likelier that something else than START follows; it speaks once START is likelier, or all is taken.
    """

    def __init__(self, units: Sequence[Sequence[int]], special: SpecialIds, vocabulary: int) -> None:
        """units: the text ids of each, at least one unit of at least one id, below `vocabulary` and none of `special`.

        Raises ValueError where it is not so.
        """
        if not units or not all(len(unit) for unit in units):
            raise ValueError(f"a script of {len(units)} units: give at least one, and each at least one id")
        for number, unit in enumerate(units):
            for at, id in enumerate(unit):
                if not 0 <= id < vocabulary or id in special:
                    raise ValueError(
                        f"script[{number}][{at}]={int(id)}: give text ids of 0 to {vocabulary - 1}, none of {special}"
                    )
        self._units = [[int(id) for id in unit] for unit in reversed(units)]
        self._special = special
        # ids of the unit that is being written, the next one last
        self._unit: list[int] = []
        self._taken = False

    @property
    def said(self) -> bool:
        """Whether nothing is left, so that the end of the speech ends the sequence."""
        return not self._units and not self._unit

    def follow(self, last: int, logits: Tensor) -> int | None:
        """Return the text id that follows `last`; None inside speech, whose length the model decides.

        logits: [ids] of what follows, of the model.
        """
        audio, start, end = self._special
        if last in (start, audio):
            return None
        if last == end:
            self._taken = False
        if self._unit:
            return self._unit.pop()
        speaks = self._taken and float(logits.float().softmax(-1)[start]) >= 0.5
        if not self._units or speaks:
            return start
        self._taken = True
        self._unit = self._units.pop()[::-1]
        return self._unit.pop()
