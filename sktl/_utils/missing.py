"""Values that are not there."""


def is_missing(value):
    """Whether there is no value: None, NaN, NaT or pandas' NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # NA is neither equal to itself nor not
        return True
