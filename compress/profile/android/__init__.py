"""Measuring a file on an Android phone with its runtime's own benchmark program."""
