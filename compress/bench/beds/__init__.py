"""The beds that cases are run on: points, digits, photographs, drawn shapes and tones, all small and without downloads.

What a bed trains on the spot (a classifier, a teacher) is the same for all cases and seeds, and kept in memory.
"""
