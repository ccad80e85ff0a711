"""The version of the toolchain; part of every step's key."""

__version__ = "0.1.0"
