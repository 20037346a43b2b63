"""The models on disk by name, each loaded at most once and kept."""

import logging
import threading
from pathlib import Path

from model.checkpoint import CARD, BadCheckpoint, Card, read_card
from model.segmenter import Device, Segmenter
from model.unusable import Unusable

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parents[1] / "model" / "weights"
"""Where the models that come with the software lie, one folder each."""


class UnknownModel(Unusable):
    """There is no model of this name. The message names those that there are."""


class Catalogue:
    """The models that jobs may ask for: those under one folder, and configured ones anywhere.

    A name can come over REST, so it is looked up among the names that there are and never becomes
    part of a path.
    """

    def __init__(
        self,
        *,
        default: str,
        device: Device = "auto",
        compiled: bool = False,
        weights: Path = WEIGHTS,
    ) -> None:
        """
        Args:
            default: the model of jobs that ask for none: a name, or the path of a folder.
            device: where the networks run.
            compiled: whether they are compiled for a GPU.
            weights: the folder of models.

        Raises:
            UnknownModel: there is no default model.
        """
        self._folders = {
            card.parent.name: card.parent for card in sorted(weights.glob(f"*/{CARD}"))
        }
        self._device: Device = device
        self._compiled = compiled
        self._loaded: dict[str, Segmenter] = {}
        self._one_at_a_time = threading.Lock()
        self.default = self.configured(default)

    def configured(self, wanted: str) -> str:
        """The name of a model that the settings give: by name, or by the path of its folder.

        Raises:
            UnknownModel: there is none, or another one has this name: results and settings tell
                models by it.
            BadCheckpoint: nothing at the path can be read as a model.
        """
        folder = Path(wanted).resolve()
        if wanted in self._folders or ("/" not in wanted and not (folder / CARD).is_file()):
            return self.name(wanted)
        read_card(folder)  # says of a path what is wrong there
        other = self._folders.setdefault(folder.name, folder)
        if other.resolve() != folder:
            raise UnknownModel(
                f"Two models are called {folder.name}: {other} and {folder}. "
                "Give one of the folders another name."
            )
        return folder.name

    def name(self, wanted: str) -> str:
        """The name itself, if there is a model of it.

        Raises:
            UnknownModel: there is none of this name.
        """
        if wanted not in self._folders:
            known = ", ".join(self._folders) or "none"
            raise UnknownModel(f"There is no model {wanted!r}; there are: {known}.")
        return wanted

    def card(self, name: str) -> Card:
        """What a model says of itself; cheap, nothing is loaded."""
        segmenter = self._loaded.get(name)
        return segmenter.card if segmenter else read_card(self._folders[self.name(name)])

    def get(self, name: str) -> Segmenter:
        """A model, loaded now unless it was before."""
        folder = self._folders[self.name(name)]
        with self._one_at_a_time:
            if name not in self._loaded:
                self._loaded[name] = Segmenter.load(
                    folder, device=self._device, compiled=self._compiled
                )
            return self._loaded[name]

    def is_loaded(self, name: str) -> bool:
        """Whether `get` would return at once."""
        return name in self._loaded

    def cards(self) -> dict[str, Card]:
        """Every model whose card can be read, by name."""
        cards = {}
        for name in self._folders:
            try:
                cards[name] = self.card(name)
            except BadCheckpoint as why:
                log.warning("%s", why)
        return cards
