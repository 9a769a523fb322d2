"""Many adapters in one batch: each example as if it were alone with its own."""

import copy
import importlib.util
import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers_at_hand import NAMES, batch, same, tiny, weights

from linnet.errors import AdapterError, ArgumentError, ChannelError, ShapeError
from linnet.llm import S2FTConfig, cost
from linnet.llm.linear import COLUMNS, ROWS, put, take
from linnet.llm.serving import BASE, Bank, LoRABank, Server

ROOT = Path(__file__).resolve().parent.parent
EXACT = ("gpt2", "opt", "bert", "roberta", "xlm-roberta", "electra")
"""Families that compute in float64 throughout; the others take norms in float32."""
OUT, IN, N = 6, 5, 3


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear():
    layer = nn.Linear(IN, OUT, dtype=torch.float64).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(drawn(0, OUT, IN))
        layer.bias.copy_(drawn(1, OUT))
    return layer


@pytest.mark.parametrize("shape", [(4, IN), (4, 1, IN), (4, 7, IN), (4, 2, 3, IN)])
@pytest.mark.parametrize("channels", [[[1, 3], [4, 0], [2, 1]], [[3, 1]] * N], ids=str)
@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize("batched", [None, False, True])
def test_each_example_has_its_own_weight(batched, axis, channels, shape):
    base = linear()
    increments = drawn(2, N, OUT, 2) if axis == COLUMNS else drawn(2, N, 2, IN)
    bank = Bank(base, axis, torch.tensor(channels), increments, batched=batched)
    x, which = drawn(3, *shape), torch.tensor([2, 0, 2, 1])
    out = bank(x, which)
    for b, i in enumerate(which):
        weight, where = base.weight.clone(), torch.tensor(channels[i])
        put(weight, axis, where, take(weight, axis, where) + increments[i])
        torch.testing.assert_close(out[b], x[b] @ weight.T + base.bias, rtol=0, atol=1e-13)
    flat = bank(x.reshape(-1, IN), which)
    torch.testing.assert_close(flat.view(out.shape), out, rtol=0, atol=1e-13)
    assert same(weights(base), weights(linear()))


@pytest.mark.parametrize("batched", [None, False, True])
def test_a_bank_of_lora_is_the_sum_of_its_products(batched):
    base = linear()
    bank = LoRABank(base, drawn(2, N, 2, IN), drawn(3, N, OUT, 2), batched=batched)
    x, which = drawn(4, 4, 7, IN), torch.tensor([2, 0, 2, 1])
    out = bank(x, which)
    for b, i in enumerate(which):
        weight = base.weight + bank.b[i] @ bank.a[i]
        torch.testing.assert_close(out[b], x[b] @ weight.T + base.bias, rtol=0, atol=1e-13)


def test_padding_adds_nothing():
    increments = drawn(2, 2, 3, IN)
    increments[1, 1:] = 0
    bank = Bank(linear(), ROWS, torch.tensor([[1, 2, 3], [4, 0, 0]]), increments)
    alone = Bank(linear(), ROWS, torch.tensor([[4]]), increments[1:, :1])
    x = drawn(3, 2, 7, IN)
    torch.testing.assert_close(bank(x, torch.tensor([1, 1])), alone(x, torch.tensor([0, 0])), rtol=0, atol=1e-14)


@pytest.mark.parametrize("batched", [False, True])
def test_in_half_precision_the_bank_computes_as_the_base_does(batched):
    base = linear()
    increments, x, which = drawn(2, N, OUT, 2), drawn(3, 4, 7, IN), torch.tensor([2, 0, 2, 1])
    channels = torch.tensor([[1, 3], [4, 0], [2, 1]])
    exact = Bank(base, COLUMNS, channels, increments)(x, which)
    half = Bank(copy.deepcopy(base).bfloat16(), COLUMNS, channels, increments.float(), batched=batched)
    out = half(x.bfloat16(), which)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("axis", "channels", "increments", "kind", "message"),
    [
        (COLUMNS, (2, 3), (2, OUT, 2), ShapeError, r"given: axis 1, \(2, 3\), \(2, 6, 2\)"),
        (ROWS, (2, 3), (2, OUT, 3), ShapeError, "increments"),
        (2, (2, 3), (2, OUT, 3), ShapeError, "axis 2"),
        (COLUMNS, (3,), (3, OUT, 1), ShapeError, "channels"),
        (COLUMNS, (0, 2), (0, OUT, 2), ShapeError, "channels"),
        (COLUMNS, (2, IN + 1), (2, OUT, IN + 1), ChannelError, "0 to 4; given: torch.int64, 0 to 5"),
    ],
)
def test_a_bank_that_does_not_fit_its_layer_is_refused(axis, channels, increments, kind, message):
    numbers = torch.arange(channels[-1]).expand(channels)
    with pytest.raises(kind, match=message):
        Bank(linear(), axis, numbers, torch.zeros(increments))


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"given: \(2, 3, 5\), \(2, 6, 2\)"):
        LoRABank(linear(), torch.zeros(2, 3, IN), torch.zeros(2, OUT, 2))


@pytest.mark.parametrize("shape", [(4, IN), (6, 1, IN), (4, 3, IN)])
def test_every_example_needs_an_adapter(shape):
    bank = Bank(linear(), COLUMNS, torch.tensor([[1]]), torch.zeros(1, OUT, 1))
    with pytest.raises(ArgumentError, match="adapters for 3 examples"):
        bank(drawn(0, *shape), torch.zeros(3, dtype=torch.long))


# --- a whole model --------------------------------------------------------------------------------


def adapted(name, dtype=torch.float64):
    """Return a model under three adapters of different sizes, matrices, blocks and forms, and what each gives alone."""
    every = ["query", "key", "value", "output", "up", "down"]
    model = get_peft_model(tiny(name, dtype), S2FTConfig(ratio=0.05, seed=1), adapter_name="small")
    model.add_adapter("large", S2FTConfig(ratio=0.15, seed=2, targets=every))
    model.add_adapter("late", S2FTConfig(ratio=0.04, seed=3, blocks=[1], form="gather", targets=["value", "down"]))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "s2ft_delta" in n:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    model.train()(**batch(name))  # brings channels side by side
    return model.eval()


def alone(model, data):
    """Return the logits of the whole batch under each adapter, and under none."""
    out = {}
    for adapter in ("small", "large", "late"):
        model.set_adapter(adapter)
        out[adapter] = model(**data).logits
    with model.disable_adapter():
        out[BASE] = model(**data).logits
    return out


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_many_adapters_is_each_example_alone(name):
    model = adapted(name)
    data = {k: v for k, v in batch(name, n=5).items() if k != "labels"}
    expected = alone(model, data)
    server = Server(model)
    names = ["large", BASE, "late", "small", "large"]
    with torch.no_grad(), server.each(names) as base:
        mixed = base(**data).logits
    tolerance = 1e-12 if name in EXACT else 2e-5
    for i, adapter in enumerate(names):
        torch.testing.assert_close(mixed[i], expected[adapter][i], rtol=tolerance, atol=tolerance)
        if adapter != BASE:
            assert (mixed[i] - expected[BASE][i]).abs().max() > 0.01
    assert same(weights(server.model), weights(tiny(name)))


def test_outside_of_the_context_the_base_is_as_it_was():
    data = {k: v for k, v in batch().items() if k != "labels"}
    before = tiny()(**data).logits
    server = Server(adapted("llama"))
    with pytest.raises(ArgumentError, match="2 adapter names for 3 examples"), server.each(["small", "large"]) as base:
        base(**data)
    assert torch.equal(server.model(**data).logits, before)
    with server.each([BASE] * 3) as base:
        assert torch.equal(base(**data).logits, before)


@pytest.mark.parametrize("beams", [1, 2])
def test_texts_are_generated_side_by_side(beams):
    model = adapted("gpt2")
    ids = batch("gpt2", n=3)["input_ids"]
    how = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams, "pad_token_id": 0, "eos_token_id": None}
    names, expected = ["small", "large", "late"], []
    for i, name in enumerate(names):
        model.set_adapter(name)
        expected.append(model.generate(input_ids=ids[i : i + 1], **how)[0])
    assert len({tuple(e[7:].tolist()) for e in expected}) > 1
    server = Server(model)
    with server.each([name for name in names for _ in range(beams)]) as base:
        assert torch.equal(base.generate(input_ids=ids, **how), torch.stack(expected))


def test_some_of_the_adapters_may_be_served():
    server = Server(adapted("llama"), ["late"])
    assert server.adapters == ("late", BASE)
    assert {n.split(".")[2] for n in server.banks} == {"1"}
    with (
        pytest.raises(AdapterError, match=f"no adapter is called small; there are late, {BASE}"),
        server.each(["small"]),
    ):
        pass


def test_what_cannot_be_served_is_refused_and_left_alone():
    model = adapted("llama")
    with pytest.raises(AdapterError, match="no adapter is called other; there are small, large, late"):
        Server(model, ["other"])
    assert alone(model, batch()).keys() == {"small", "large", "late", BASE}
    with pytest.raises(AdapterError, match="default trained biases"):
        Server(get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.1, bias="all")))
    with pytest.raises(AdapterError, match="classifier was trained whole"):
        Server(get_peft_model(tiny("bert"), S2FTConfig(ratio=0.1, task_type="SEQ_CLS")))
    with pytest.raises(AdapterError, match="no S2FT adapters"):
        Server(tiny())


# --- the benchmark --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("llm_benchmark", ROOT / "benchmarks" / "llm.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


TINY = {"shape": "tiny", "length": 16, "batch": 2, "dtype": "fp32", "device": "cpu", "threads": 1}


@pytest.mark.parametrize(
    ("trained", "expected"), [((), 0), ((0,), 7 * 64 * 4), ((0, 1), 7 * 64 * 4), ((2,), 7 * 32 * 4)]
)
def test_bytes_kept_for_the_backward_pass_are_those_counted_by_hand(trained, expected):
    """Of a frozen map nothing is kept but its weight, which is the model's; of a trained one its input, once."""
    model = nn.ModuleList([nn.Linear(64, 32, bias=False), nn.Linear(64, 32, bias=False), nn.Linear(32, 8, bias=False)])
    for i, layer in enumerate(model):
        layer.requires_grad_(i in trained)
    x = torch.randn(7, 64).requires_grad_()
    loss, kept = cost.saved_bytes(lambda: model[2](model[0](x) + model[1](x)).sum(), model)
    assert kept == expected
    loss.backward()
    assert x.grad is not None


def test_bytes_kept_in_sparse_tensors_count():
    values = torch.ones(3, requires_grad=True)
    x = torch.randn(4, 2)

    def forward():
        return torch.sparse.mm(torch.sparse_coo_tensor(torch.tensor([[0, 1, 2], [0, 1, 3]]), values, (3, 4)), x).sum()

    with warnings.catch_warnings(action="ignore"):
        _, kept = cost.saved_bytes(forward, nn.Module())
    assert kept >= 2 * 3 * 8 + 4 * 2 * 4  # indices, and the dense factor


def test_the_peak_is_that_counted_by_hand():
    held = [torch.ones(1000)]
    before = cost.alive_bytes()

    def work():
        one = held[0] + 1  # 4000 bytes
        two = one + 1  # 8000
        del one  # 4000
        three = torch.cat([two, two])  # 12000
        del two, three
        torch.ones(2000)  # 8000

    assert cost.peak_bytes(work, "cpu") == before + 12000
    held.clear()
    assert cost.alive_bytes() == before - 4000


@pytest.fixture(scope="module")
def measured(bench):
    return {row["method"]: row for row in bench.memory(bench.Setting(**TINY))["methods"]}


def test_all_methods_start_as_the_same_model_and_train_as_much(bench, measured):
    assert not [row for row in measured.values() if "failed" in row]
    model = bench.base_model(bench.Setting(**TINY))
    budget = bench.Budget.of(model, None)
    full = sum(p.numel() for p in model.parameters())
    assert measured["LoRA"]["trained"] == measured["SHiRA"]["trained"] == budget.n_parameters <= 0.03 * full
    assert 0.8 * budget.n_parameters < measured["S2FT"]["trained"] <= budget.n_parameters
    assert measured["S2FT, gather"]["trained"] == measured["S2FT"]["trained"]
    assert measured["full FT"]["trained"] == full
    losses = [row["loss"] for name, row in measured.items() if name != bench.HEAD]
    assert max(losses) - min(losses) < 1e-5


def test_s2ft_keeps_its_slices_beyond_the_floor_and_lora_its_inputs(bench, measured):
    tokens, least = 2 * 16, measured[bench.LATE]["saved"]
    columns = measured["S2FT"]["trained"] // 64  # every column of output and down has 64 entries
    assert measured["S2FT"]["saved"] == least + tokens * columns * 4
    assert measured["LoRA"]["saved"] == measured["LoRA, not autocast"]["saved"]
    rank, blocks = bench.Budget.of(bench.base_model(bench.Setting(**TINY))).rank, 3
    # The inputs of query, key, value; of up and gate; of down; what output reads is kept in any case. And seven A x.
    # The first norm, its inputs and their lengths, lies before all that LoRA trains, and not before the floor.
    more = blocks * (64 + 64 + 160 + 7 * rank) - (64 + 1)
    assert measured["LoRA"]["saved"] == measured[bench.FLOOR]["saved"] + tokens * more * 4
    assert measured["S2FT"]["peak"] < measured["LoRA"]["peak"] < measured["full FT"]["peak"]


@pytest.mark.parametrize("keep", [False, True])
def test_turns_are_taken_whether_or_not_models_are_kept(bench, keep):
    names = [bench.FLOOR, bench.S2FT, bench.FULL]
    rows = bench.times(bench.Setting(**TINY), names, 2, 1, 7, keep)
    turns = [(row["method"], row["round"]) for row in rows]
    assert sorted(turns) == sorted([(n, 0) for n in names] + [(n, 1) for n in names if n in bench.EVERY_ROUND])
    assert all(row["process"] == 7 and row["seconds"] > 0 for row in rows)


def test_what_does_not_fit_is_a_result_and_the_others_go_on(bench, monkeypatch):
    def too_large(model, budget):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB\nand more")

    def broken(model, budget):
        raise RuntimeError("no kernel\nand more")

    chosen = {
        "DoRA": too_large,
        "SHiRA": broken,
        **{n: bench.METHODS[n] for n in (bench.FLOOR, bench.LORA, bench.S2FT)},
    }
    monkeypatch.setattr(bench, "METHODS", chosen)
    found = bench.memory(bench.Setting(**TINY))
    failed = [row.get("failed") for row in found["methods"]]
    assert failed == ["out of memory", "failed: no kernel", None, None, None]
    table = bench.training_table(bench.summary(bench.Setting(**TINY), found, []))
    assert next(iter(table.columns[1].cells)) == "out of memory"


def test_ratios_are_paired_within_rounds(bench):
    rows = [
        {"method": name, "process": p, "round": r, "seconds": drift * taken}
        for p, ratio in enumerate((1.9, 2.0, 2.1))
        for r, drift in enumerate((1.0, 30.0, 0.2))
        for name, taken in (("a", ratio), ("b", 1.0))
    ]
    found = bench.ratio(rows, "a", "b")
    assert found["median"] == pytest.approx(2.0)
    assert found["rounds"] == 9
    assert found["low"] < 1.9 < 2.1 < found["high"]  # of three processes
    assert bench.ratio(rows[:6], "a", "b")["low"] is None  # one says nothing of how they differ
    assert bench.ratio(rows, "a", "c") is None


def test_the_exponent_of_a_power_is_found(bench):
    widths = [512, 1024, 4096, 8192]
    fit = bench.exponent(widths, [3e-9 * w**1.7 for w in widths])
    assert fit["slope"] == pytest.approx(1.7)
    assert fit["high"] - fit["low"] < 1e-6
    noisy = bench.exponent(widths, [3e-9 * w**1.7 * f for w, f in zip(widths, (1.1, 0.9, 1.1, 0.9), strict=True)])
    assert noisy["low"] < 1.7 < noisy["high"]
    assert bench.exponent(widths[:2], [1.0, 2.0]) is None


def test_the_whole_run_writes_what_it_shows(bench, tmp_path, capsys, monkeypatch):
    chosen = {name: bench.METHODS[name] for name in (bench.FLOOR, bench.LORA, bench.S2FT)}
    monkeypatch.setattr(bench, "METHODS", chosen)
    out = tmp_path / "llm.json"
    out.write_text(json.dumps({"cuda": {"train": []}}))
    arguments = ["--quick", "--threads", "1", "--out", str(out), "--figure", str(tmp_path / "serving")]
    assert bench.main(arguments) == 0
    results = json.loads(out.read_text())
    assert results["cuda"] == {"train": []}  # what another machine measured stays
    (result,) = results["cpu"]["train"]
    assert {row["method"] for row in result["methods"]} == set(chosen)
    assert all(row["seconds"] > 0 for row in result["methods"])
    assert {row["method"] for row in results["cpu"]["switch"]["rows"]} >= {"LoRA", "S2FT, neighbouring columns"}
    assert {(row["n"], row["length"]) for row in results["cpu"]["serving"]["rows"]} == {(1, 1), (1, 4), (3, 1), (3, 4)}
    assert (tmp_path / "serving.png").stat().st_size > 10_000
    assert "A training step: tiny, fp32, length 16, batch 2, cpu" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_is_said(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--device", "cuda"])
    assert "torch finds no CUDA device here" in capsys.readouterr().err
