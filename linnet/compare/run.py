"""``linnet compare``: files or an example in; tables, JSON and a figure out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from linnet.compare.core import check_choice, compare
from linnet.compare.data import Case, checked_sizes, read_data, read_network
from linnet.compare.examples import load
from linnet.compare.figure import check_figure, save
from linnet.compare.records import Source
from linnet.compare.report import show
from linnet.errors import LinnetError
from linnet.report.files import Outputs


def command(
    network: Path | None,
    train: Path | None,
    test: Path | None,
    layer: int | None,
    rank: int | None,
    example: str | None,
    json: Path | None,
    figure: Path | None,
    seed: int,
) -> None:
    """Run the comparison, write the files that were asked for, print the tables.

    Raises:
        LinnetError: one line about what was given, what is needed and what to do; nothing is written.
    """
    _check_usage(example, {"NETWORK.npz": network, "--train": train, "--test": test, "--layer": layer, "--rank": rank})
    if figure is not None:
        check_figure(figure)
    inputs = [path for path in (network, train, test) if path is not None]
    with Outputs([path for path in (json, figure) if path is not None], inputs) as outputs:
        if network is None or train is None or test is None or layer is None or rank is None:
            case = load(example or "", seed, layer, rank)
        else:
            case = _from_files(network, train, test, layer, rank, seed)
        with Console(stderr=True).status("") as status:
            result = compare(
                case.net,
                case.train,
                case.test,
                case.layer,
                case.rank,
                seed,
                source=case.source,
                progress=status.update,
            )
        if json is not None:
            outputs.part(json).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if figure is not None:
            save(result, outputs.part(figure), figure.suffix)
        outputs.commit()
    show(result)


def _check_usage(example: str | None, files: dict[str, Any]) -> None:
    """Refuse neither files nor example, both, or part of what files need.

    Raises:
        LinnetError: what is missing or too much.
    """
    given = [name for name in ("NETWORK.npz", "--train", "--test") if files[name] is not None]
    missing = [name for name, value in files.items() if value is None]
    if example is not None:
        if given:
            raise LinnetError(f"--example {example} and {', '.join(given)} were both given; give one or the other")
    elif not given:
        raise LinnetError(
            "neither files nor an example were given; give NETWORK.npz --train TRAIN.npz --test TEST.npz --layer L "
            "--rank R, or --example digits"
        )
    elif missing:
        raise LinnetError(f"{', '.join(missing)} missing; your own files need {', '.join(files)}")


def _from_files(network: Path, train: Path, test: Path, layer: int, rank: int, seed: int) -> Case:
    """Read and check everything, so that each refusal names its file."""
    net = read_network(network)
    check_choice(net, layer, rank, seed)
    pairs = []
    for path in (train, test):
        pair = read_data(path)
        checked_sizes(net, pair, f"{path}: ")
        pairs.append(pair)
    source = Source(network=str(network), train=str(train), test=str(test))
    return Case(net, pairs[0], pairs[1], layer, rank, source)
