"""The command line: finds a command, and turns refusals and Ctrl-C into exit codes. Each command has its own file.

Exit codes: 0; 1 from ``binxent info`` if a face does not work; 2 after one line on stderr (a bad argument, a file that
cannot be read or written, a missing library); 130 after Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from binxent import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click


def _program() -> click.Group:
    # Imported here and not above: an installation without extras has no click, and main() then names the extra in one
    # line. For the same reason each command imports its libraries only when it runs.
    import click

    from binxent.commands.info import info
    from binxent.commands.pos_weight import pos_weight
    from binxent.commands.score import score
    from binxent.demo.command import demo

    @click.group(invoke_without_command=True)
    @click.version_option(__version__, message="%(prog)s %(version)s")
    @click.pass_context
    def program(context: click.Context) -> None:
        """Binary cross-entropy, defined once and computed by one kernel.

        \b
        Examples:
          binxent demo                          train on real data, print a table, draw a picture
          binxent score logits.npy labels.npy   loss, calibration, precision, recall of each label
          binxent pos-weight labels.parquet     the pos_weight that balances each label
          binxent info                          versions, and which framework works here
          binxent score --help                  every option of a command
        """
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    for command in (demo, score, pos_weight, info):
        program.add_command(command)
    return program


def _refuse(where: str, why: str) -> int:
    print(f"{where}: {' '.join(why.split())}", file=sys.stderr)
    return 2


def _run(arguments: Sequence[str] | None) -> int:
    program = _program()
    import click

    try:
        return int(program.main(arguments, prog_name="binxent", standalone_mode=False) or 0)
    except click.UsageError as error:
        return _refuse(error.ctx.command_path if error.ctx else "binxent", error.format_message())
    except click.ClickException as error:
        return _refuse("binxent", error.format_message())
    except click.Abort:  # click turns a KeyboardInterrupt into this
        raise KeyboardInterrupt from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that ``arguments`` (by default those of the process) name, and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Escapes what the stream cannot encode, where print would raise: a label or a path may have any character.
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except ImportError as error:
        missing = (error.name or "binxent").partition(".")[0]
        if missing == "binxent":  # no extra would install that
            raise
        extra = "demo" if "demo" in (sys.argv[1:] if arguments is None else arguments)[:1] else "cli"
        return _refuse("binxent", f"{missing} cannot be imported ({error}); run: pip install 'binxent[{extra}]'")
    except KeyboardInterrupt:
        print("binxent: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
