"""The one exception for data that cannot be used as it is."""


class DataError(ValueError):
    """Input that is wrong: the message is one sentence that says what, where, and what to do."""
