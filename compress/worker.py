"""One of several processes that share a training: started by the pipeline through torch's own launcher."""

from __future__ import annotations

import sys
from pathlib import Path

from compress.errors import CompressError
from compress.pipeline import run_worker


def main() -> int:
    """Run one training step of a run folder; errors go to stderr as one line."""
    try:
        run_worker(Path(sys.argv[1]), int(sys.argv[2]))
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
