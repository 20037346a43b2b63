"""Which model segments a series: the rules of the settings, the first that fits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from plugin.conditions import Condition, SeriesFacts
from plugin.configuration import BadConfiguration


class ModelRule(Condition):
    """One rule: a condition, and what runs where it holds."""

    model: Annotated[str, Field(min_length=1)]
    """As the setting Model."""

    shadow_model: str = ""
    """Runs after it, is kept apart, compared and never sent on; or empty."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs on one series, and why."""

    model: str  # its name
    shadow_model: str  # its name, or empty
    reason: str  # a sentence


class ModelRules:
    """Chooses models for series."""

    def __init__(
        self,
        rules: Sequence[ModelRule] = (),
        *,
        default: str,
        shadow_model: str = "",
        name: Callable[[str], str] = str,
    ) -> None:
        """
        Args:
            rules: in the order in which they are tried.
            default: the model where none fits.
            shadow_model: the one that runs after the default one; or empty.
            name: the name of a model that the settings give by name or path.

        Raises:
            BadConfiguration: a model would run a second time on the same series, as its shadow.
        """

        def choice(model: str, shadow_model: str, reason: str, *, place: str) -> Choice:
            one, shadow = name(model), name(shadow_model) if shadow_model else ""
            if shadow == one:
                raise BadConfiguration(
                    f"{place}.ShadowModel is its Model {one}, and would be compared with itself."
                )
            return Choice(model=one, shadow_model=shadow, reason=reason)

        self._rules = [
            (
                rule,
                choice(
                    rule.model,
                    rule.shadow_model,
                    f"Rule {number} of Models fits: {rule.asks_for()}.",
                    place=f"Oar.Models.{number - 1}",
                ),
            )
            for number, rule in enumerate(rules, 1)
        ]
        self._default = choice(
            default,
            shadow_model,
            "No rule of Models fits: the usual model." if rules else "The usual model.",
            place="Oar",
        )

    def choose(self, facts: Callable[[], SeriesFacts]) -> Choice:
        """The models for one series, whose facts are asked for only if there are rules."""
        if self._rules:
            known = facts()
            for rule, choice in self._rules:
                if rule.holds(known):
                    return choice
        return self._default

    def models(self) -> set[str]:
        """The names of all models that may run by themselves."""
        choices = [self._default, *(choice for _, choice in self._rules)]
        return {name for one in choices for name in (one.model, one.shadow_model) if name}
