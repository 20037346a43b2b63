"""How long to look: `--hypothesis-profile long` looks at other things each time."""

import logging

from hypothesis import HealthCheck, Phase, settings

from plugin.log import QUOTING

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "quick",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    phases=[Phase.generate],  # what fails here is made small by `make fuzz`
    suppress_health_check=SLOW_IS_FINE,
)
settings.register_profile(
    "long", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=SLOW_IS_FINE
)
settings.load_profile("quick")

for name in QUOTING:  # as inside Orthanc
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)
