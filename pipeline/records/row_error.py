"""The error that a broken row raises, and names for what it holds instead of what it should."""


class RowError(ValueError):
    """What is wrong with one row and how to mend it; the caller adds file and line."""


def type_name(value: object) -> str:
    """Return what a value from JSON, CSV or Parquet is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
