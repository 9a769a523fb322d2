"""The command line. Only typer is imported before a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="linnet",
    help="The theory of parameter-efficient fine-tuning, on trial.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def compare(
    network: Annotated[Path | None, typer.Argument(help="NETWORK.npz: W0, W1, ...; optional b0, b1, ...")] = None,
    train: Annotated[Path | None, typer.Option(help="TRAIN.npz: x (n, p), y (n, q).")] = None,
    test: Annotated[Path | None, typer.Option(help="TEST.npz: out-of-distribution x, y.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to fine-tune, from 0.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA, whose parameter count the others match.")] = None,
    example: Annotated[
        Literal["digits", "diabetes"] | None, typer.Option(help="Bundled data instead of files.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the comparison (.png, .pdf, .svg).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits and random choices.")] = 0,
) -> None:
    """Compare all fine-tuning methods on your network and your two data sets."""
    from linnet.compare import command

    command(network, train, test, layer, rank, example, json, figure, seed)


def main() -> None:
    """Run the command line: one line on standard error and exit code 2 for input that linnet refuses."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
    except ValueError as err:
        from linnet.errors import LinnetError

        if not isinstance(err, LinnetError):
            raise
        print(f"linnet: {err}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
