"""The command line. Only typer is imported before a command runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="linnet",
    help="The theory of parameter-efficient fine-tuning, on trial.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def linnet(context: typer.Context) -> None:
    """The theory of parameter-efficient fine-tuning, on trial."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


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
    """Compare all methods on your network and data.

    Two data sets: one to fine-tune on, one to see what is forgotten.
    """
    from linnet.compare import command

    command(network, train, test, layer, rank, example, json, figure, seed)


@app.command()
def verify(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Ids, prefixes such as yang2024, or claim files; all by default.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the ledger as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the ledger as a page for the browser.")] = None,
    budget: Annotated[
        Literal["quick", "full", "thorough"], typer.Option(help="How many instances each claim meets.")
    ] = "full",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all drawing.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a processor by default.")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Try planted claims instead: are the false ones caught?")
    ] = False,
) -> None:
    """Put claims on trial and print the ledger."""
    from linnet.report import verdicts

    if self_test:
        if json is not None or html is not None:
            raise typer.BadParameter("--self-test writes no ledger; leave out --json and --html")
        raise typer.Exit(verdicts.self_test(claims or [], seed, jobs))
    raise typer.Exit(verdicts.verify(claims or [], json, html, budget, seed, jobs))


@app.command()
def show(
    claim: Annotated[str, typer.Argument(help="Id of a claim, or a claim file.")],
    budget: Annotated[Literal["quick", "full"], typer.Option(help="How many instances the claim meets.")] = "quick",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all drawing.")] = 0,
) -> None:
    """Print one claim, its verdict and its instance.

    Statement, source, hypotheses; the claim is tried anew.
    """
    from linnet.report import verdicts

    raise typer.Exit(verdicts.show(claim, budget, seed))


@app.command()
def certify(
    file: Annotated[Path, typer.Argument(help="A ledger, or one certificate.")],
    claims: Annotated[list[Path] | None, typer.Option(help="Claim file that a certificate speaks of.")] = None,
) -> None:
    """Check certificates again, by exact arithmetic.

    The exit code is 1 if one does not stand.
    """
    from linnet.report import verdicts

    raise typer.Exit(verdicts.certify(file, claims or []))


@app.command()
def page(
    ledger: Annotated[Path, typer.Argument(help="What linnet verify --json wrote.")],
    html: Annotated[Path, typer.Option(help="The page to write.")],
    claims: Annotated[list[Path] | None, typer.Option(help="Claim file that the ledger speaks of.")] = None,
) -> None:
    """Draw a ledger as a page for the browser.

    Nothing is tried again.
    """
    from linnet.report import verdicts

    raise typer.Exit(verdicts.redraw(ledger, html, claims or []))


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="EXPERIMENT.toml: a study, what stays the same, what varies.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; this one alone by default.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler, such as tcp://192.0.2.7:8786.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of journal and table; sweeps/NAME by default.")] = None,
) -> None:
    """Simulate every cell of a grid; resumable.

    Killed and started again, it goes on where it was. NAME is EXPERIMENT without its folder. How to write one:
    docs/writing-an-experiment.md; an example: experiments/samples.toml.
    """
    from linnet.sweep.command import command

    raise typer.Exit(command(file, jobs, scheduler, out))


@app.command()
def draw(
    files: Annotated[list[Path], typer.Argument(help="EXPERIMENT.toml; EXPERIMENT.py beside it says how.")],
    tables: Annotated[
        Path | None, typer.Option(help="Folder of NAME.parquet, which linnet sweep wrote; sweeps/NAME by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of NAME.pdf, NAME.png and NAME.md.")] = Path("figures"),
) -> None:
    """Draw the figures of sweeps from their tables.

    Nothing is simulated again. NAME is EXPERIMENT without its folder. How to write EXPERIMENT.py:
    docs/writing-an-experiment.md.
    """
    from linnet.plots import draw_experiment

    for file in files:
        folder = Path("sweeps") / file.stem if tables is None else tables
        for path in draw_experiment(file, folder / f"{file.stem}.parquet", out):
            print(path)


INTERRUPTED = 130
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
"""What typer raises for wrong usage; of click, which some versions of typer bring along under another name."""


llm = typer.Typer(help="The same questions, put to real language models.", add_completion=False, no_args_is_help=True)
app.add_typer(llm, name="llm")


@llm.command("verify")
def llm_verify(
    checks: Annotated[list[str] | None, typer.Argument(help="Ids, or files of your own; all by default.")] = None,
    model: Annotated[str, typer.Option(help="smollm2, minilm, or the folder of a model.")] = "minilm",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    budget: Annotated[Literal["quick", "small", "full"], typer.Option(help="How long each model is trained.")] = "full",
    seed: Annotated[list[int] | None, typer.Option(help="May be given several times; five by default.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes, each with a model.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a CPU, for each process; all by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of finished measurements; build/llm/MODEL.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the ledger as JSON, beside what it holds.")] = None,
) -> None:
    """Measure what the papers find on a real model: agrees, disagrees or undecided, with effects and intervals.

    Stopped and started again, it goes on where it was.
    """
    try:
        from linnet.llm.verify import command
    except ModuleNotFoundError as err:
        raise typer.BadParameter(f"{err.name} is missing: pip install 'linnet-trials[llm]'") from None
    raise typer.Exit(command(checks or [], model, device, budget, seed, threads, out, json, jobs))


def main() -> None:
    """Run the command line: one line on standard error and exit code 2 for input that linnet refuses."""
    from linnet.processor import VARIABLES

    # The problems are small and many: threads inside BLAS only get in the way of processes beside it.
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
    try:
        code = app(prog_name="linnet", standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer has turned Ctrl-C into this
            kept = f"every finished cell is kept: to go on, {shlex.join(['linnet', *sys.argv[1:]])}"
            print(
                f"linnet: interrupted; {kept if sys.argv[1:2] in (['sweep'], ['llm']) else 'nothing was written'}",
                file=sys.stderr,
            )
        sys.exit(code)
    except USAGE_ERROR as err:
        path = err.ctx.command_path if err.ctx else "linnet"
        said = err.format_message().replace("Value error, ", "").rstrip(".")
        print(f"linnet: {said}; see {path} --help", file=sys.stderr)
        sys.exit(2)
    except ValueError as err:
        from linnet.errors import LinnetError

        if not isinstance(err, LinnetError):
            raise
        print(f"linnet: {err}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
