"""`python -m srat_fast` and the console script `srat-fast`: arguments enter, an exit code leaves."""

from srat_fast.cli import main

if __name__ == "__main__":
    main()
