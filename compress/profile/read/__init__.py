"""Models as op records, however they come: a torch model, an exported program, an ONNX, LiteRT or ExecuTorch file."""
