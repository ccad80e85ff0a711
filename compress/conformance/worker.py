"""A process that runs cases: it reads [case, scheme, format] lines and answers each with a result, as JSON."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time

PROCESSOR_TIME_S = 300
"""What one case may use: the slowest sound one, with the imports before it, takes under a minute."""


def main() -> None:
    """Answer until the input ends; what libraries print goes nowhere, for stdout holds the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import torch

    from compress.conformance.run import run

    torch.set_num_threads(1)
    logging.getLogger("compress").setLevel(logging.ERROR)  # a batch size that cannot be free is no news here
    for line in sys.stdin:
        allow(PROCESSOR_TIME_S)
        case, scheme, format = json.loads(line)
        answers.write(json.dumps(run(case, scheme, format).to_dict()) + "\n")
        answers.flush()


def allow(seconds: int) -> None:
    """Let this process use so much more processor time; the system ends it (SIGXCPU) where it uses more.

    Not the clock's time: on a machine that does other things a sound case may take long.
    """
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds, hard))


if __name__ == "__main__":
    main()
