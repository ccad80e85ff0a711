"""Training checkpoints that survive a kill: atomic, named by their own hash, the previous good one kept."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch

from compress.files import write_bytes

log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt$")
KEPT = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (tensors and plain values) as the checkpoint of `step` and drop all but the last two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_bytes(path, content)
    for old in _found(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint whose content matches its name; damaged ones are named in the log and passed over."""
    for path in _found(folder):
        match = _NAME.search(path.name)
        content = path.read_bytes()
        if match and hashlib.sha256(content).hexdigest()[:16] == match[2]:
            return int(match[1]), torch.load(io.BytesIO(content), weights_only=True)
        log.warning("checkpoint %s is damaged (content does not match its hash); using the one before it", path)
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints of a finished training."""
    for path in _found(folder):
        path.unlink(missing_ok=True)


def _found(folder: Path) -> list[Path]:
    """The folder's checkpoints, newest first."""
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.search(p.name)), reverse=True)
