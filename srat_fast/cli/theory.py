"""`srat-fast theory`: check the claims of Section 3 of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from srat_fast.cli.options import AsJson
from srat_fast.cli.show import rows_table


def theory(
    eta: Annotated[float, typer.Option(help="Each coordinate of the mean of class +1.")] = 1.0,
    sigma: Annotated[float, typer.Option(help="Standard deviation of each coordinate.")] = 2.0,
    d: Annotated[int, typer.Option("--d", help="Dimension.")] = 4,
    ratio: Annotated[float, typer.Option("--K", help="Prior of class +1 over that of class -1.")] = 10.0,
    weight: Annotated[
        float, typer.Option("--rho", help="A fixed weight of class -1, checked beside 1 and K.")
    ] = 3.0,
    epsilon: Annotated[
        float | None, typer.Option(help="Radius of an L-infinity attack.", show_default="eta / 2")
    ] = None,
    s_grid: Annotated[
        str, typer.Option("--S-grid", help="Separabilities of the theorems, comma-separated.")
    ] = "0.1,0.25,0.5,1",
    k_grid: Annotated[
        str, typer.Option("--K-grid", help="Ratios of the theorems, comma-separated.")
    ] = "2,5,10,100,1000,10000",
    samples: Annotated[str, typer.Option(help="Samples of each simulation, such as 1e8.")] = "1e6",
    seed: Annotated[int, typer.Option(help="Seed of the simulations.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write tables (CSV, JSON) and figures (SVG, PNG) there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The paper's Lemma 3.1 and theorems, checked. Against numerical minimisation, simulation and root finding.

    Exit code 1 where a verdict is not the one that docs/theory.md derives.
    """
    from srat_fast.theory.claims import Settings, check, parse_numbers
    from srat_fast.theory.files import as_json as plain
    from srat_fast.theory.files import make_folder, write
    from srat_fast.theory.mixture import Mixture
    from srat_fast.theory.numerics import parse_samples

    settings = Settings(
        Mixture(eta, sigma, d),
        ratio,
        weight,
        eta / 2 if epsilon is None else epsilon,
        parse_numbers("--S-grid", s_grid),
        parse_numbers("--K-grid", k_grid),
        parse_samples(samples),
        seed,
    )
    if out is not None:
        make_folder(out)
    checked = check(settings)
    files = [] if out is None else write(settings, checked, out)
    if as_json:
        print(json.dumps(plain(settings, checked), indent=2, allow_nan=False))
    else:
        from srat_fast.console import Console

        console = Console()
        claims = [
            {"claim": c.name, "reading": c.statement, "verdict": c.verdict, "shown by": c.evidence}
            for c in checked.claims
        ]
        for title, rows in (
            (
                f"Section 3 (S = {settings.mixture.separability:.4g}, a = {settings.mixture.distance:.4g})",
                claims,
            ),
            ("Lemma 3.1 against a numerical minimiser", checked.lemma),
            ("Errors of sign(1.x - b): closed form, simulation, printed formula", checked.errors),
            ("Where the theorems' claims hold", checked.ranges),
        ):
            console.say(f"\n{title}")
            console.print(rows_table(rows, spare=("shown by", "reading")))
        if files:
            console.say(f"\n{len(files)} files in {out}")
    if not checked.as_expected:
        raise typer.Exit(1)
