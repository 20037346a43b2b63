"""What ends in a sentence, and not in a traceback, at whatever command a person has given."""


class Unusable(Exception):
    """Something that was given cannot be used. The message says to who gave it what, and why."""
