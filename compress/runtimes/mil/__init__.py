"""A reference evaluator of Core ML's ML programs: a saved package, read back from disk and computed by torch.

It reads the file as it lies on disk (protobuf and weight blobs), not the graph it was made from, and follows what the
program says: padding rules, constants, stored weights, casts and declared types. It is no copy of Core ML: it sums in
float32 and rounds each value to its declared type, where Core ML may round in other places. So it tells whether the
program is the right one, not how Core ML's kernels round, and its times mean nothing.
"""

from compress.runtimes.mil.evaluate import Evaluator, Value
from compress.runtimes.mil.program import Operation, Port, Program, read_program
from compress.runtimes.mil.table import OPS

__all__ = ["OPS", "Evaluator", "Operation", "Port", "Program", "Value", "read_program"]
