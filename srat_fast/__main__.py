"""`python -m srat_fast` and the console script `srat-fast`."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is being imported is an end like any other."""
    try:
        from srat_fast.cli import main as run
    except KeyboardInterrupt:
        # Ctrl-C inside of an exec of text (namedtuple, dataclass): CPython has noted to end by SIGINT after all, and
        # takes that back when the next text is evaluated
        eval("None")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
