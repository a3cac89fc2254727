"""The command line. Heavy imports wait inside the commands, so that help is immediate.

Exit codes: 0 done, 1 an error of the library, 2 wrong usage, 3 a claim failed (reproduce, compare), 130 interrupted.
"""

from __future__ import annotations

import warnings
from typing import Any

import click

from crfl import __version__
from crfl.cli.compare import compare
from crfl.cli.figures import reproduce
from crfl.cli.runs import certify, plot, report, run, verify
from crfl.cli.settings import settings
from crfl.cli.sweeps import sweep
from crfl.cli.tools import data, radius
from crfl.cli.tune import tune
from crfl.errors import CrflError

__all__ = ["main", "reproduce"]


class _Group(click.Group):
    """Turns the library's errors, and files that fail, into one message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _say
                return super().invoke(ctx)
        except CrflError as error:
            raise click.ClickException(self._in_options(ctx, str(error))) from None
        except KeyboardInterrupt:
            click.echo("\nInterrupted; what was finished is kept. The same command goes on from there.", err=True)
            raise SystemExit(130) from None
        except BrokenPipeError:  # nobody reads on
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None

    def _in_options(self, ctx: click.Context, message: str) -> str:
        """A message that begins with the name of a Python argument, with the name of its option instead."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        for param in command.params if command else ():
            if isinstance(param, click.Option) and message.startswith(f"{param.name}: "):
                return param.opts[0] + message.removeprefix(str(param.name))
        return message


def _say(message: Warning | str, *place: Any, **more: Any) -> None:
    """A warning as a line, without the place in the code that Python shows."""
    click.echo(f"warning: {message}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crfl")
def main() -> None:
    """Certified robustness of federated learning against backdoor attacks.

    \b
    crfl run digits                          train under attack, certify, plot
    crfl certify runs/demo --kind smoothing  certify a finished run anew
    crfl sweep digits --set attack.scale=1,5,10 --seeds 5
    crfl settings attack                     every setting of the attack
    crfl reproduce --smoke                   the paper's figures in short
    crfl compare --smoke                     certified defences, threat by threat
    """


for command in (run, certify, sweep, plot, report, verify, tune, compare, reproduce, radius, data, settings):
    main.add_command(command)
