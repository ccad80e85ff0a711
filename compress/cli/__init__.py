"""The command line: arguments in, one call, text out. Heavy rooms are imported inside the commands that need them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from compress.cli.lists import COMMANDS
from compress.cli.methods import SUMMARY, methods_app
from compress.cli.options import app
from compress.cli.planning import plan
from compress.cli.profile import profile_app
from compress.cli.verbs import VERBS, command_for
from compress.cli.verify import verify_command

for _verb, _summary in VERBS.items():
    if _verb == "profile":
        app.add_typer(profile_app, name=_verb, short_help=_summary)
        continue
    app.command(_verb, short_help=_summary)(verify_command() if _verb == "verify" else command_for(_verb))
for _command in (plan, *COMMANDS):
    app.command(short_help=str(_command.__doc__).splitlines()[0])(_command)
app.add_typer(methods_app, name="methods", short_help=SUMMARY)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command line, by default this process's own."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(arguments, prog_name="compress", obj=shlex.join(["compress", *arguments]))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
