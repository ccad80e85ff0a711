"""Who reads a value."""

from __future__ import annotations

import torch
from torch import fx


def tensor_readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read the value of `node`, those that only ask for its size left out."""
    return [reader for reader in node.users if reader.target is not torch.ops.aten.sym_size.int]
