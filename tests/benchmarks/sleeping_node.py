"""A worker node whose network sleeps: `python -m tests.benchmarks.sleeping_node SECONDS ...`.

All else is a node's own, and the further arguments are those of `plugin.node`.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from model.segmenter import Segmenter
from plugin import node


def main(argv: Sequence[str]) -> int:
    seconds = float(argv[0])
    network = Segmenter.probabilities

    def probabilities(self: Segmenter, image: Tensor, **how: Any) -> Tensor:
        time.sleep(seconds)
        return network(self, image, **how)

    Segmenter.probabilities = probabilities  # type: ignore[method-assign]
    return node.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
