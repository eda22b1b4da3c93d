"""The version of the package: of the wheel, and in what it writes."""

__version__ = "0.1.0"
