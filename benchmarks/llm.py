"""What a training step costs under S2FT and its rivals, what it costs to change adapters, and to serve many at once.

Three parts, on one device:

train    a step (forward, backward, AdamW) of each method at matched numbers of trained parameters: time, peak memory,
         bytes kept for the backward pass. The floor is the same step with all weights frozen and gradients flowing to
         the output of the embeddings. A method can fall below it by what lies before the first map that it trains: the
         second floor ends there.
switch   one linear layer: from one adapter to another, over the width (yang2024, Figure 6, a and b).
serving  one linear layer: a batch of which each example has another adapter (yang2024, Figure 6c).

Methods take turns within a round, in an order drawn anew each round; ratios are those of turns of one round, pooled
over processes, since the ratios of one process drift. Stated are the median, and for ratios Student's 95 % interval
over the processes' medians. Weights are random: their values do not matter to time and memory. In float32 the two
settings of peft's ``autocast_adapter_dtype`` are the same computation: what their times differ by is noise.

    python benchmarks/llm.py                  # SmolLM2's shape on the CPU, float32
    python benchmarks/llm.py --device cuda    # yang2024, Figure 5: LLaMA2's shapes, bfloat16
    python benchmarks/llm.py --quick          # a tiny shape: does it run?
"""

import argparse
import copy
import functools
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from linnet.llm import S2FTConfig
from linnet.llm.cost import Step, free, in_turn, peak_bytes, saved_bytes, seconds, storages
from linnet.llm.findings import device_name
from linnet.llm.layer_work import LORA, serving, switching

HERE = Path(__file__).parent
RESULT = HERE / "results" / "llm.json"
FIGURES = HERE.parent / "figures"

# hidden, intermediate, layers, heads, key and value heads, vocabulary, embeddings tied to the head
SHAPES = {
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, True),
    "llama2-7b": (4096, 11008, 32, 32, 32, 32000, False),
    "llama2-13b": (5120, 13824, 40, 40, 40, 32000, False),
    "tiny": (64, 160, 3, 4, 2, 96, True),
}
MAPS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARE = 0.01
"""Trained parameters over all, S2FT's default; every method gets the most that LoRA can train within it."""
RARELY = 5
"""Methods that no target speaks of have a turn in every fifth round."""


@dataclass(frozen=True)
class Setting:
    """What a step is measured on."""

    shape: str
    length: int
    batch: int
    dtype: str
    device: str
    threads: int
    rank: int | None = None


# --- models under training ------------------------------------------------------------------------


def base_model(setting: Setting) -> Any:
    hidden, intermediate, layers, heads, shared, vocabulary, tied = SHAPES[setting.shape]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=max(2048, setting.length),
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[setting.dtype], attn_implementation="sdpa")
    return model.requires_grad_(False)


def replica(model: Any, own: bool = False) -> Any:
    """A model of its own modules, upon the same storage of weights unless it is to have its own."""
    weights = {
        id(p): nn.Parameter(p.detach().clone() if own else p.detach(), requires_grad=False) for p in model.parameters()
    }
    return copy.deepcopy(model, weights | {id(b): b for b in model.buffers()})


@dataclass(frozen=True)
class Budget:
    """Ranks and a number of parameters that are alike for a model."""

    rank: int
    dora_rank: int
    n_parameters: int

    @classmethod
    def of(cls, model: Any, rank: int | None = None) -> "Budget":
        shapes = [m.weight.shape for n, m in model.named_modules() if n.rpartition(".")[2] in MAPS]
        of_rank_one, rows = sum(map(sum, shapes)), sum(out for out, _ in shapes)
        if rank is None:
            rank = max(1, int(SHARE * sum(p.numel() for p in model.parameters()) / of_rank_one))
            rank -= rank % 8 if rank >= 8 else 0  # what fits the hardware
        n = rank * of_rank_one
        return cls(rank, max(1, (n - rows) // of_rank_one), n)


def floor(model: Any, budget: Budget) -> Any:
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: out.requires_grad_())
    return model


def late_floor(model: Any, budget: Budget) -> Any:
    """Gradients flow to the first map that S2FT trains, and no further."""
    first = model.model.layers[0].self_attn.o_proj
    first.register_forward_hook(lambda module, args, out: out.requires_grad_())
    return model


class Head(nn.Module):
    """The vocabulary head and the loss alone, with a gradient for what comes in."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.head: nn.Linear = model.lm_head
        self.loss, self.size = model.loss_function, model.config.vocab_size

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        weight = self.head.weight
        hidden = weight.new_ones(*input_ids.shape, weight.shape[1]).requires_grad_()
        return argparse.Namespace(loss=self.loss(self.head(hidden), labels, vocab_size=self.size))


def full(model: Any, budget: Budget) -> Any:
    return model.requires_grad_(True)


def lora(model: Any, budget: Budget, autocast: bool) -> Any:
    config = LoraConfig(r=budget.rank, lora_alpha=2 * budget.rank, lora_dropout=0.0, target_modules=MAPS)
    return get_peft_model(model, config, autocast_adapter_dtype=autocast)


def dora(model: Any, budget: Budget) -> Any:
    r = budget.dora_rank
    return get_peft_model(model, LoraConfig(r=r, lora_alpha=2 * r, target_modules=MAPS, use_dora=True))


def shira(model: Any, budget: Budget) -> Any:
    def mask(base: nn.Linear, r: int, **_: Any) -> torch.Tensor:
        """One entry drawn from each of as many equal parts: distinct without a permutation of all entries."""
        n, k = base.weight.numel(), r * sum(base.weight.shape)
        at = torch.arange(k) * (n // k) + torch.randint(n // k, (k,))
        out = torch.zeros(n, dtype=torch.bool, device=base.weight.device)
        out[at.to(out.device)] = True
        return out.view_as(base.weight)

    config = ShiraConfig(r=budget.rank, target_modules=MAPS)
    config.mask_fn = mask  # type: ignore[assignment]  # peft's own type for it cannot be met
    return get_peft_model(model, config)


def s2ft(model: Any, budget: Budget, form: str) -> Any:
    return get_peft_model(model, S2FTConfig(n_parameters=budget.n_parameters, form=form))


FLOOR, S2FT, GATHER, HEAD, FULL = "floor", "S2FT", "S2FT, gather", "vocabulary head alone", "full FT"
LATE = "floor, to the first map trained"
METHODS: dict[str, Callable[[Any, Budget], Any]] = {
    FLOOR: floor,
    LATE: late_floor,
    HEAD: lambda model, budget: Head(model),
    S2FT: functools.partial(s2ft, form="permuted"),
    GATHER: functools.partial(s2ft, form="gather"),
    LORA: functools.partial(lora, autocast=True),
    "LoRA, not autocast": functools.partial(lora, autocast=False),
    "DoRA": dora,
    "SHiRA": shira,
    FULL: full,  # last: it changes the weights that the others share
}
EVERY_ROUND = (FLOOR, LORA, S2FT, GATHER)


class Trained(Step):
    """A model under training; call it for a step."""

    def __enter__(self) -> "Trained":
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the base weights back as they were, but for full fine-tuning."""
        if isinstance(self.model, PeftModel):
            self.model.unload()


def prepared(name: str, base: Any, setting: Setting, own: bool = False) -> Trained:
    model = METHODS[name](replica(base, own), Budget.of(base, setting.rank))
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(base.config.vocab_size, (setting.batch, setting.length), generator=draw).to(setting.device)
    return Trained(model, lambda under: under(input_ids=ids, labels=ids).loss)


# --- what is measured -----------------------------------------------------------------------------


def failure(err: RuntimeError) -> str:
    out_of_memory = isinstance(err, torch.OutOfMemoryError) or "not enough memory" in str(err)
    return "out of memory" if out_of_memory else f"failed: {str(err).splitlines()[0]}"


def memory(setting: Setting) -> dict[str, Any]:
    """Bytes of the weights; and of each method alone: what it trains, first loss, bytes kept, peak of a step."""
    torch.set_num_threads(setting.threads)
    base = base_model(setting)
    rows: list[dict[str, Any]] = []
    for name in METHODS:
        try:
            rows.append({"method": name, **memory_of(name, base, setting)})
        except RuntimeError as err:  # that a method does not fit is a result; on to the next one
            rows.append({"method": name, "failed": failure(err)})
        free(setting.device)
    return {"weights": sum(storages(base.parameters()).values()), "methods": rows}


def memory_of(name: str, base: Any, setting: Setting) -> dict[str, Any]:
    with prepared(name, base, setting) as trained:
        loss, saved = saved_bytes(trained.forward, trained.model)
        first = loss.item()
        trained.finish(loss)
        del loss
        peak = peak_bytes(trained, setting.device)
        return {"trained": sum(p.numel() for p in trained.parameters), "loss": first, "saved": saved, "peak": peak}


def times(setting: Setting, names: list[str], rounds: int, steps: int, process: int, keep: bool) -> list[dict]:
    """One row a turn: the median time of some steps of a method.

    Where there is memory for it, all methods are kept prepared; otherwise each is prepared anew for its turn.
    """
    torch.set_num_threads(setting.threads)
    base, draw = base_model(setting), np.random.default_rng(process)
    kept: dict[str, Trained] = {}
    rows = []

    def timed(trained: Trained) -> float:
        return statistics.median([seconds(trained, setting.device) for _ in range(steps)])

    def turn_of(name: str) -> float:
        if not keep:
            with prepared(name, base, setting) as trained:
                trained()  # makes the states of the optimiser
                return timed(trained)
        if name not in kept:
            kept[name] = prepared(name, base, setting, own=name == FULL)
            kept[name]()
        return timed(kept[name])

    for turn in range(rounds):
        chosen = [n for n in names if turn % RARELY == 0 or n in EVERY_ROUND]
        for name in draw.permutation(chosen).tolist():
            rows.append({"method": name, "process": process, "round": turn, "seconds": turn_of(name)})
            if not keep:
                free(setting.device)
    return rows


# --- one layer: changing adapters, and serving many -----------------------------------------------


@torch.no_grad()
def turns_of(works: Mapping[str, Callable[[], object]], repeats: int, device: str, cell: dict, process: int) -> list:
    """One row a call."""
    return [
        {**cell, "method": name, "process": process, "round": turn, "seconds": taken}
        for name, values in in_turn(works, repeats, device, process).items()
        for turn, taken in enumerate(values)
    ]


def layer_times(cells: dict[str, list[dict]], how: dict, repeats: int, process: int, threads: int) -> list[dict]:
    """One row a call of all cells, by kind of work: switch or serving."""
    torch.set_num_threads(threads)
    rows = []
    for cell in cells.get("switch", []):
        rows += turns_of(switching(**cell, **how), repeats, how["device"], {"kind": "switch", **cell}, process)
    for cell in cells.get("serving", []):
        rows += turns_of(serving(**cell, **how), repeats, how["device"], {"kind": "serving", **cell}, process)
    return rows


# --- statistics -----------------------------------------------------------------------------------


def ratio(rows: Iterable[dict], method: str, reference: str) -> dict[str, Any] | None:
    """The median of ratios within rounds, and Student's 95 % interval over the processes' medians; None without any."""
    found = {(r["method"], r["process"], r["round"]): r["seconds"] for r in rows}
    by_process: dict[int, list[float]] = {}
    for (name, process, turn), taken in found.items():
        if name == method and (reference, process, turn) in found:
            by_process.setdefault(process, []).append(taken / found[reference, process, turn])
    if not by_process:
        return None
    every = [value for values in by_process.values() for value in values]
    medians = np.log([statistics.median(values) for values in by_process.values()])
    low = high = None
    if len(medians) > 1:
        half = stats.t.ppf(0.975, len(medians) - 1) * stats.sem(medians)
        low, high = np.exp(medians.mean() - half).item(), np.exp(medians.mean() + half).item()
    return {"median": statistics.median(every), "low": low, "high": high, "rounds": len(every)}


def exponent(widths: list[int], medians: list[float]) -> dict[str, float] | None:
    """The slope of time against width on logarithmic axes with its 95 % interval; None of less than three widths."""
    if len(widths) < 3:
        return None
    fit = stats.linregress(np.log(widths), np.log(medians))
    half = stats.t.ppf(0.975, len(widths) - 2) * fit.stderr
    return {"from": min(widths), "slope": fit.slope, "low": fit.slope - half, "high": fit.slope + half}


def median_of(rows: Iterable[dict], **cell: Any) -> float | None:
    found = [r["seconds"] for r in rows if all(r[key] == value for key, value in cell.items())]
    return statistics.median(found) if found else None


def summary(setting: Setting, measured: dict, turns: list[dict]) -> dict[str, Any]:
    """Everything about one setting: what was measured of memory, with times and ratios."""
    rows = measured["methods"]
    for row in rows:
        row["seconds"] = median_of(turns, method=row["method"])
        for key, reference in (("to_floor", FLOOR), ("to_lora", LORA)):
            against = next(r for r in rows if r["method"] == reference)
            known = [what for what in ("peak", "saved") if what in row and what in against]
            row[key] = {what: row[what] / against[what] for what in known}
            row[key]["seconds"] = ratio(turns, row["method"], reference)
    return {**asdict(setting), **measured, "turns": turns}


# --- the whole run --------------------------------------------------------------------------------


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """The result of work in a process of its own, which ends with this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, signal.signal, (signal.SIGINT, signal.SIG_DFL)) as pool:
        return pool.submit(work, *args).result()


def train(options: argparse.Namespace, run: Callable[..., Any], say: Callable[[str], None]) -> Iterator[dict]:
    """Yield all about one setting after the other."""
    keep = options.device == "cpu"
    for shape, length, batch in itertools.product(options.shapes, options.lengths, options.batches):
        setting = Setting(shape, length, batch, options.dtype, options.device, options.threads, options.rank)
        say(f"{shape}, length {length}, batch {batch}: memory")
        measured = run(memory, setting)
        names = [row["method"] for row in measured["methods"] if "failed" not in row]
        turns: list[dict] = []
        for process in range(options.processes):
            say(f"{shape}, length {length}, batch {batch}: time, process {process + 1} of {options.processes}")
            turns += run(times, setting, names, options.rounds, options.steps, process, keep)
        yield summary(setting, measured, turns)


def layers(options: argparse.Namespace, run: Callable[..., Any], say: Callable[[str], None]) -> dict[str, dict]:
    """By kind of work, switch or serving, all about one layer."""
    how = {"channels": options.channels, "rank": options.channels // 2, "dtype": DTYPES[options.dtype]}
    how |= {"device": options.device}
    grid = itertools.product(options.serving_widths, options.adapters, options.tokens)
    cells: dict[str, list[dict]] = {
        "switch": [{"width": width} for width in options.widths],
        "serving": [dict(zip(("width", "n", "length"), cell, strict=True)) for cell in grid],
    }
    cells = {kind: those for kind, those in cells.items() if kind in options.parts}
    turns: list[dict] = []
    for process in range(options.processes) if cells else ():
        say(f"one layer: process {process + 1} of {options.processes}")
        turns += run(layer_times, cells, how, options.repeats, process, options.threads)
    out: dict[str, dict] = {}
    for kind, those in cells.items():
        rows = []
        names = sorted({t["method"] for t in turns if t["kind"] == kind}, key=lambda name: (name == LORA, name))
        for cell, method in itertools.product(those, names):
            mine = [t for t in turns if t["kind"] == kind and all(t[key] == value for key, value in cell.items())]
            measured = {"seconds": median_of(mine, method=method), "to_lora": ratio(mine, method, LORA)}
            rows.append({**cell, "method": method, **measured})
        out[kind] = {"channels": options.channels, "rank": how["rank"], "dtype": options.dtype, "rows": rows}
    if "switch" in out:
        out["switch"]["exponents"] = exponents(out["switch"]["rows"])
    return out


def exponents(rows: list[dict]) -> list[dict]:
    """Of each method, over all widths, and over the wider half of them."""
    widths, out = sorted({row["width"] for row in rows}), []
    for method in dict.fromkeys(row["method"] for row in rows):
        for least in (widths[0], widths[len(widths) // 2]):
            chosen = [row for row in rows if row["method"] == method and row["width"] >= least]
            fit = exponent([row["width"] for row in chosen], [row["seconds"] for row in chosen])
            out.append({"method": method, **(fit or {})})
    return out


def store(results: dict, device: str, found: dict[str, Any], out: Path | None) -> None:
    """Put what was found, a setting of training or kinds of one layer's work, among the results, and write them."""
    mine = results[device] = {"train": [], **results[device]} if isinstance(results[device], dict) else {"train": []}
    for kind, result in found.items():
        if kind == "train":
            setting = [field.name for field in fields(Setting)]
            others = [r for r in mine["train"] if any(r[key] != result[key] for key in setting)]
            mine["train"] = [*others, result]
        else:
            mine[kind] = result
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        written = out.with_suffix(".part")
        written.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        written.replace(out)


# --- shown ----------------------------------------------------------------------------------------


def shown(value: dict | float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    between = "" if value["low"] is None else f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value['median']:.{digits}f}{between}"


def training_table(result: dict) -> Table:
    rows = result["methods"]
    where = "{shape}, {dtype}, length {length}, batch {batch}, {device}".format_map(result)
    table = Table(title=f"A training step: {where}", caption=weights_apart(result))
    against = ("/ floor", "/ LoRA")
    for i, head in enumerate(("method", "trained", "ms", *against, "peak MB", *against, "kept MB", *against)):
        table.add_column(head, justify="right" if i else "left")
    for row in rows:
        if "failed" in row:
            table.add_row(row["method"], row["failed"])
            continue
        cells = [row["method"], f"{row['trained']:,}", shown(row["seconds"] and 1e3 * row["seconds"], 0)]
        cells += [shown(row[key]["seconds"]) for key in ("to_floor", "to_lora")]
        for what in ("peak", "saved"):
            cells += [f"{row[what] / 1e6:.1f}", *(shown(row[key].get(what)) for key in ("to_floor", "to_lora"))]
        table.add_row(*cells)
    return table


def weights_apart(result: dict) -> str:
    """What the base weights, which every method has, take of the peaks."""
    weights, peak = result["weights"], {r["method"]: r.get("peak") for r in result["methods"]}
    out = f"The base weights take {weights / 1e6:.1f} MB of every peak."
    if all(peak[name] for name in (S2FT, LORA, FLOOR)):
        less = {name: (peak[S2FT] - weights) / (peak[name] - weights) for name in (FLOOR, LORA)}
        out += f" Less them, S2FT's is {less[FLOOR]:.3f} of the floor's and {less[LORA]:.3f} of LoRA's."
    return out


def switch_table(result: dict) -> Table:
    table = Table(title=f"From one adapter to another: {result['channels']} channels, LoRA of rank {result['rank']}")
    widths = sorted({r["width"] for r in result["rows"]})
    for i, head in enumerate(("method, µs at width", *map(str, widths), "exponent", "of wider half")):
        table.add_column(head, justify="right" if i else "left")
    for method in dict.fromkeys(r["method"] for r in result["rows"]):
        cells = [f"{1e6 * r['seconds']:.0f}" for r in result["rows"] if r["method"] == method]
        fits = [e for e in result["exponents"] if e["method"] == method]
        cells += [f"{e['slope']:.2f} [{e['low']:.2f}, {e['high']:.2f}]" if "slope" in e else "" for e in fits]
        table.add_row(method, *cells)
    return table


def serving_table(result: dict) -> Table:
    table = Table(
        title=f"A batch of n examples with n adapters: {result['channels']} channels, LoRA of rank {result['rank']}"
    )
    for i, head in enumerate(("width", "n", "tokens", "method", "µs", "/ LoRA")):
        table.add_column(head, justify="left" if i == 3 else "right")
    for row in result["rows"]:
        cells = [str(row["width"]), str(row["n"]), str(row["length"]), row["method"], f"{1e6 * row['seconds']:.0f}"]
        table.add_row(*cells, shown(row["to_lora"]), end_section=row["method"] == "LoRA")
    return table


def show(results: dict, console: Console) -> None:
    for device in ("cpu", "cuda"):
        mine = results.get(device)
        if not isinstance(mine, dict):
            console.print(f"{device}: not measured")
            continue
        for result in mine.get("train", []):
            console.print(training_table(result))
        for kind, table in (("switch", switch_table), ("serving", serving_table)):
            if kind in mine:
                console.print(table(mine[kind]))


def figure(result: dict) -> Any:
    """Draw one device's times of changing adapters over the width, and of serving them over their number."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.ticker import LogLocator

    sns.set_theme(style="ticks", context="paper", font_scale=1.1)
    drawn, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    rows, colours, marks = result["switch"]["rows"], sns.color_palette("colorblind"), ["o", "s", "D", "^", "v"]
    for i, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
        chosen = [r for r in rows if r["method"] == method]
        x, y = [r["width"] for r in chosen], [1e3 * r["seconds"] for r in chosen]
        left.plot(x, y, color=colours[i], marker=marks[i], label=method)
    left.set(xscale="log", yscale="log", xlabel="width of the layer", ylabel="from one adapter to another (ms)")
    rows = result["serving"]["rows"]
    width, length = max(r["width"] for r in rows), min(r["length"] for r in rows)
    for i, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
        chosen = [r for r in rows if (r["method"], r["width"], r["length"]) == (method, width, length)]
        x, y = [r["n"] for r in chosen], [1e3 * r["seconds"] for r in chosen]
        right.plot(x, y, color=colours[i], marker=marks[i], label=method)
    tokens = "one token each" if length == 1 else f"{length} tokens each"
    right.set(xscale="log", yscale="log", xlabel=f"adapters, {tokens}", ylabel=f"a batch at width {width} (ms)")
    for ax, at in ((left, {r["width"] for r in result["switch"]["rows"]}), (right, {r["n"] for r in rows})):
        ticks = sorted(at)[:: 2 if len(at) > 5 else 1]
        ax.set_xticks(ticks, labels=ticks)
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.legend(frameon=False)
        sns.despine(ax=ax)
    return drawn


def caption(result: dict, here: dict) -> str:
    """Return the text of the figure."""
    channels, rank, dtype = (result["switch"][key] for key in ("channels", "rank", "dtype"))
    rows = result["switch"]["rows"]
    narrowest, widest = (pick(row["width"] for row in rows) for pick in (min, max))
    found = [e for e in result["switch"]["exponents"] if e.get("from") == narrowest]  # of one width there are none
    powers = ", ".join(f"{e['method']} {e['slope']:.2f} ({e['low']:.2f} to {e['high']:.2f})" for e in found)
    powers = f"As powers of the width, from the narrowest layer to the widest: {powers}. " if found else ""
    seconds = {row["method"]: row["seconds"] for row in rows if row["width"] == widest}
    factor = seconds["S2FT, scattered columns"] / seconds["S2FT, neighbouring columns"]
    title = (
        f"*One linear layer, as many outputs as inputs. Left: from one adapter of S2FT with {channels} channels, or "
        f"LoRA of rank {rank}, to another, over the width. Right: one product of the widest layer for a batch, each "
        f"example with its own adapter. Medians of {here['processes']} processes; {dtype}, {here['device']}.*"
    )
    text = (
        "LoRA's product reaches every entry of the weight, S2FT's increment as many as the width times its channels. "
        f"{powers}Channels lie together as S2FT's reordering leaves them; scattered columns take {factor:.0f} times as "
        f"long as neighbouring ones at width {widest}."
    )
    again = "Numbers: `benchmarks/results/llm.json`; again by `python benchmarks/llm.py` (yang2024, Figure 6)."
    parts = ["# Changing adapters, and serving many", *(textwrap.fill(p, 120) for p in (title, text)), again]
    return "\n\n".join(parts) + "\n"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--parts", nargs="+", choices=("train", "switch", "serving"), default=["train", "switch", "serving"]
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--rank", type=int, help="LoRA's; by default the largest within 1 %% of the parameters")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--rounds", type=int, help="a process")
    parser.add_argument("--steps", type=int, help="a turn")
    parser.add_argument("--channels", type=int, help="of an adapter of one layer; LoRA's rank is half")
    parser.add_argument("--widths", type=int, nargs="+", help="of the layer that changes adapters")
    parser.add_argument("--serving-widths", type=int, nargs="+")
    parser.add_argument("--adapters", type=int, nargs="+", help="served at once")
    parser.add_argument("--tokens", type=int, nargs="+", help="of each example served")
    parser.add_argument("--repeats", type=int, help="of one layer's work, a process")
    parser.add_argument("--quick", action="store_true", help="a tiny shape in this process, nothing written by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    cuda = options.device == "cuda"
    ordinary = {
        "shapes": ["llama2-7b", "llama2-13b"] if cuda else ["smollm2-135m"],
        "dtype": "bf16" if cuda else "fp32",
        "lengths": [512, 1024] if cuda else [512],
        "batches": [1, 2] if cuda else [1],
        "processes": 2 if cuda else 5,
        "rounds": 3 if cuda else 8,
        "steps": 5 if cuda else 1,
        "channels": 32,
        "widths": [512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192],
        "serving_widths": [1024, 4096],
        "adapters": [1, 4, 16, 64],
        "tokens": [1, 8],
        "repeats": 20 if cuda else 10,
        "out": RESULT,
        "figure": FIGURES / ("serving-cuda" if cuda else "serving"),
    }
    quick = {
        "shapes": ["tiny"],
        "lengths": [16],
        "batches": [2],
        "processes": 1,
        "rounds": 1,
        "steps": 1,
        "channels": 8,
        "widths": [64, 96, 128],
        "serving_widths": [64],
        "adapters": [1, 3],
        "tokens": [1, 4],
        "repeats": 2,
        "out": None,
        "figure": None,
    }
    for name, value in (ordinary | quick if options.quick else ordinary).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if cuda and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; without --device cuda the CPU is measured")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 150)
    run = (lambda work, *args: work(*args)) if options.quick else apart
    results: dict[str, Any] = {"cpu": "not measured", "cuda": "not measured"}
    if options.out and options.out.exists():
        results |= json.loads(options.out.read_text(encoding="utf-8"))
    here = {
        "device": device_name(options.device),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "processes": options.processes,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }
    interrupted = False
    try:
        if "train" in options.parts:
            for result in train(options, run, console.print):
                store(
                    results, options.device, {"train": {**result, "on": here | {"load": os.getloadavg()}}}, options.out
                )
        found = layers(options, run, console.print)
        on = here | {"load": os.getloadavg()}
        store(results, options.device, {kind: {**result, "on": on} for kind, result in found.items()}, options.out)
    except KeyboardInterrupt:
        interrupted = True
    show(results, console)
    if interrupted:
        console.print("interrupted: of this run, what was finished is in the tables, and nothing else")
        return 130
    if options.figure and {"switch", "serving"} <= found.keys():
        drawn = figure(found)
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "pdf"):
            drawn.savefig(options.figure.with_suffix(f".{kind}"), dpi=200)
        options.figure.with_suffix(".md").write_text(caption(found, here), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
