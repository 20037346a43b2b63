"""Which CT series are segmented though nobody has asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugin.conditions import Condition, SeriesFacts


@dataclass(frozen=True)
class ByItself:
    """The settings Automatic and AutomaticFor."""

    automatic: bool  # whether any series is
    rules: Sequence[Condition]  # of which one must hold; none: every series is

    def judge(self, facts: Callable[[], SeriesFacts]) -> tuple[bool, str]:
        """Whether one series is, and a sentence why; facts are asked for only if there are rules.

        What the archive does not know of a series fits no expression, so that it waits for a person
        to ask: a CT that came by REST was called by no AE title.
        """
        if not self.automatic:
            return False, "Automatic is false."
        if not self.rules:
            return True, "Automatic is true."
        known = facts()
        for number, rule in enumerate(self.rules, 1):
            if rule.holds(known):
                return True, f"Rule {number} of AutomaticFor fits: {rule.asks_for()}."
        return False, "No rule of AutomaticFor fits."
