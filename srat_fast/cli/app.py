"""The application: commands, exit codes, bad input as one line and code 2."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from srat_fast.cli import (
    analyse,
    audit,
    check_plugin,
    data,
    doctor,
    evaluate,
    export,
    report,
    reproduce,
    sweep,
    theory,
    train,
)
from srat_fast.cli.options import forget_given, named_as_option, spelled_out
from srat_fast.cli.streams import lost_output, take_streams
from srat_fast.data.notices import printed
from srat_fast.errors import (
    Interrupted,
    TrainingFailure,
    UserError,
    failure_of,
    is_full,
    require_text,
    teller,
)
from srat_fast.plugins import plugin_errors
from srat_fast.tables import visible

app = typer.Typer(
    name="srat-fast",
    help="SRAT (Separable Reweighted Adversarial Training) and its baselines on imbalanced data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120, "help_option_names": ["--help", "-h"]},
    rich_markup_mode=None,  # names in messages are text; and --help does without rich
)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(analyse.analyse)
app.command()(audit.audit)
app.command()(report.report)
app.command()(export.export)
app.add_typer(data.app, name="data")
app.command()(theory.theory)
app.add_typer(sweep.app, name="sweep")
app.command()(reproduce.reproduce)
app.command()(check_plugin.check_plugin)
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from srat_fast import __version__

        typer.echo(f"srat-fast {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """SRAT (Separable Reweighted Adversarial Training) and its baselines on imbalanced data."""


def main(arguments: list[str] | None = None, codes: Mapping[str | None, int] | None = None) -> None:
    """Run one command and exit.

    Args:
        arguments: without the program's name; None for the process's own.
        codes: kind of failure (`errors.failure_of`) -> exit code, in place of 1 or 2; for sweeps' trials.

    Raises:
        SystemExit: 0 done, 1 a run failed or a check did not hold, 2 bad input, 3 a suspicious audit or a paused sweep,
            124 ended by the watchdog, 129 stopped by SIGHUP, 130 by Ctrl-C, 143 by SIGTERM or SIGUSR1.
    """
    take_streams()
    forget_given()
    code = _run(sys.argv[1:] if arguments is None else arguments, codes or {})
    if code == 0 and (why := lost_output()) is not None:
        code = _fail(f"the output could not be written: {why}", 1)
    if code == 130:
        eval("None")  # as in __main__: else CPython may end by the signal, not with the code
    sys.exit(code)


def _run(arguments: list[str], codes: Mapping[str | None, int]) -> int:
    try:
        for argument in arguments:
            require_text("argument", argument)
        with printed(), plugin_errors():
            code = app(spelled_out(arguments), standalone_mode=False)
    except UserError as error:
        line = error.line(named_as_option(error.option))
        return _fail(line, codes.get(failure_of(error), 2), error)
    except TrainingFailure as error:
        return _fail(str(error), codes.get(failure_of(error), 1), error)
    except typer.TyperException as error:
        if (
            type(error).__name__ == "NoArgsIsHelpError"
        ):  # which typer does not export: its message is the help
            print(error.format_message(), file=sys.stderr)
            return 2
        return _fail(error.format_message(), 2, error)
    except Interrupted as stop:
        if teller(stop) is not None:
            print(visible(str(stop)), file=sys.stderr)
        return stop.code
    except OSError as error:
        if error.filename is None:
            raise
        # a path that no place above foresaw: no permission, a name that is too long, a disk that fails or is full
        code = 1 if is_full(error) else 2
        return _fail(f"{error.filename}: {error.strerror}", codes.get(failure_of(error), code))
    except MemoryError as error:
        return _fail(f"out of memory: {error}", codes.get("memory", 1))
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int, error: Exception | None = None) -> int:
    before = "" if error is None else teller(error)
    if before is not None:
        print("error: " + visible(before + " ".join(message.split())), file=sys.stderr)
    return code
