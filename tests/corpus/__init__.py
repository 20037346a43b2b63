"""Hostile and odd CT series, each with its name as a sentence and how it must end.

One corpus, read in two ways: by the series reader alone (tests/plugin/ct/test_corpus.py) and by a
real Orthanc (tests/integration/test_bad_input.py).
"""

from tests.corpus.case import Case
from tests.corpus.files import FILES
from tests.corpus.geometry import GEOMETRY
from tests.corpus.headers import HEADERS
from tests.corpus.pixels import PIXELS
from tests.corpus.syntaxes import SYNTAXES

CASES: tuple[Case, ...] = (*HEADERS, *GEOMETRY, *PIXELS, *SYNTAXES, *FILES)
