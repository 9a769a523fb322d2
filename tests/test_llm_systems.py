"""Fine-tuning systems: what each trains, what it leaves alone, what it gives back, and what it costs."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import cross_entropy
from transformers_at_hand import batch, same, tiny, weights

from linnet.errors import ArgumentError, BudgetError, StructureError
from linnet.llm.structure import LAYOUTS, ROLES
from linnet.llm.systems import (
    IA3,
    LISA,
    S2FT,
    SYSTEMS,
    AdaLoRA,
    BitFit,
    DoRA,
    FullFT,
    GaLore,
    LoRA,
    LoReFT,
    ParallelAdapter,
    PrefixTuning,
    SeriesAdapter,
    SpFT,
    TopLayers,
    places,
    table,
)
from linnet.llm.systems.bottleneck import Bottleneck
from linnet.llm.systems.galore import ProjectedAdamW


class Classifier(nn.Module):
    """An encoder within a module that transformers knows nothing of."""

    def __init__(self):
        super().__init__()
        self.encoder = tiny("bert").bert
        self.encoder.pooler = None  # the mean over the tokens takes its place
        self.head = nn.Linear(16, 2).double()
        self.head.weight.data = torch.linspace(-1, 1, 32, dtype=torch.float64).sin().reshape(2, 16)

    def forward(self, input_ids, attention_mask, labels):
        logits = self.head(self.encoder(input_ids, attention_mask).last_hidden_state.mean(1))
        return SimpleNamespace(loss=cross_entropy(logits, labels))


MODELS = {name: lambda name=name: tiny(name) for name in ("llama", "gpt2", "opt", "bert")} | {"wrapped": Classifier}
BATCH = {"wrapped": "bert"}
INSTANCES = {
    "FullFT": FullFT(),
    "TopLayers": TopLayers(layers=1),
    "SpFT": SpFT(rank=2),
    "BitFit": BitFit(),
    "LoRA": LoRA(rank=3),
    "DoRA": DoRA(rank=3),
    "AdaLoRA": AdaLoRA(rank=3),
    "IA3": IA3(),
    "PrefixTuning": PrefixTuning(tokens=4),
    "SeriesAdapter": SeriesAdapter(units=3),
    "ParallelAdapter": ParallelAdapter(units=3, scale=2.0),
    "LoReFT": LoReFT(rank=2),
    "GaLore": GaLore(rank=3, gap=4),
    "LISA": LISA(active=1, interval=3),
}
NOT_FOR = {("BitFit", "llama"), ("SpFT", "gpt2")}
PAIRS = [(s, m) for s in INSTANCES for m in MODELS if (s, m) not in NOT_FOR]

# Which of the base model's own weights a system may change; of the others that is nothing.
ITS_OWN = {
    "FullFT": r".*",
    "LISA": r".*",
    "TopLayers": r".*(layers|layer|h)\.1\..*",
    "BitFit": r".*\bbias",
    "GaLore": r".*(proj|fc[12]|c_attn|c_fc|query|key|value|dense)\.weight(?<!pooler\.dense\.weight)",
}
NOT_THE_BASE_MODEL_AT_FIRST = {"PrefixTuning", "LoReFT"}


def asked(model, name):
    """A batch that every token, position and unit takes part in, as far as they can."""
    kind = BATCH.get(name, name)
    inputs = batch(kind, n=8, length=28)
    inputs["input_ids"][0] = torch.arange(2, 30)
    return inputs


def train(prepared, inputs, steps=8, lr=1e-2, weight_decay=0.0):
    optimizer = prepared.optimizer(lr=lr, weight_decay=weight_decay)
    losses = []
    for _ in range(steps):
        loss = prepared.model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def anatomy(model):
    """Everything that restoring has to bring back, besides the values of the weights."""
    built = [
        (
            name,
            id(module),
            sorted(vars(module)),
            [id(p) for p in module.parameters(recurse=False)],
            [list(hooks) for key, hooks in sorted(vars(module).items()) if "hooks" in key and hooks is not None],
        )
        for name, module in model.named_modules()
    ]
    return built, [(name, p.requires_grad) for name, p in model.named_parameters()]


def test_every_system_of_both_papers_is_there():
    assert SYSTEMS.keys() == {*INSTANCES, "S2FT"}  # which moves the rows and columns of the base model: tried below
    assert all(type(instance) is SYSTEMS[name] for name, instance in INSTANCES.items())


@pytest.mark.parametrize(("system", "name"), PAIRS)
def test_a_system_trains_what_it_says_and_gives_the_model_back(system, name):
    torch.manual_seed(5)
    model, chosen = MODELS[name](), INSTANCES[system]
    inputs = asked(model, name)
    first = next(model.parameters()).requires_grad_(False)  # a flag that must come back
    before, build = weights(model), anatomy(model)
    of_base = {id(p): n for n, p in model.named_parameters()}
    with torch.no_grad():
        start = model(**inputs).loss.item()

    prepared = chosen.prepare(model)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.down.bias)  # of three units, one may not be dead from the start
    then = [p.detach().clone() for p in prepared.parameters]
    # With decay, what is not reached by a gradient changes too, so that all that can change does.
    losses = train(prepared, inputs, weight_decay=0.1)

    if system in NOT_THE_BASE_MODEL_AT_FIRST:
        assert abs(losses[0] - start) > 1e-3
    else:
        assert losses[0] == pytest.approx(start, abs=1e-12)
    assert losses[-1] < losses[0] - 1e-3
    changed = sum((p != old).sum().item() for p, old in zip(prepared.parameters, then, strict=True))
    assert changed == prepared.n_parameters
    allowed = ITS_OWN.get(system, r"(?!)")
    trained = {id(p) for p in prepared.parameters}
    for p in (p for p in [*model.parameters(), *prepared.model.parameters()] if id(p) in of_base):
        own = of_base[id(p)]
        assert torch.equal(p, before[own]) != (id(p) in trained), own
        assert bool(re.fullmatch(allowed, own)) == (id(p) in trained), own

    prepared.model(**inputs).loss.backward()  # gradients that nobody used
    prepared.restore()
    assert same(before, weights(model))
    assert anatomy(model) == build
    assert not first.requires_grad
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert model(**inputs).loss.item() == start


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bert"])
@pytest.mark.parametrize("form", ["permuted", "gather"])
def test_s2ft_is_one_of_them(form, name):
    model = tiny(name)
    before, build, inputs = weights(model), anatomy(model), asked(model, name)
    start = model(**inputs).loss.item()
    prepared = S2FT.at_budget(model, 300, form=form).prepare(model)
    then = [p.detach().clone() for p in prepared.parameters]
    losses = train(prepared, inputs)
    assert losses[0] == pytest.approx(start, abs=1e-12 if name != "llama" else 1e-6)  # its norms are in float32
    assert losses[-1] < losses[0] - 1e-3
    changed = sum((p != old).sum().item() for p, old in zip(prepared.parameters, then, strict=True))
    assert 0 < changed <= prepared.n_parameters <= 300
    assert sum(p.numel() for p in prepared.parameters) == prepared.n_parameters
    prepared.restore()
    assert same(before, weights(model))
    assert anatomy(model) == build


@pytest.mark.parametrize(("system", "name"), PAIRS)
def test_a_budget_is_kept_and_used(system, name):
    model, kind = MODELS[name](), SYSTEMS[system]
    if kind is FullFT:
        assert kind.at_budget(model, 1).n_moments(model) == sum(p.numel() for p in model.parameters())
        return
    least = (kind() if kind.size is None else kind(**{kind.size: 1})).n_moments(model)
    for budget in (least, least + 1, 3 * least + 7, 10**9):
        chosen = kind.at_budget(model, budget)
        assert chosen.n_moments(model) <= budget
        if kind.size is not None:
            size = getattr(chosen, kind.size)
            larger = kind(**{kind.size: size + 1})
            assert size == chosen._most(model) or larger.n_moments(model) > budget
    with pytest.raises(BudgetError, match=rf"{kind.name} trains {least:,} .* budget is {least - 1:,}"):
        kind.at_budget(model, least - 1)


@pytest.mark.parametrize(("system", "name"), [(s, m) for s, m in PAIRS if SYSTEMS[s].size])
def test_the_largest_size_that_a_budget_can_choose_works(system, name):
    model = MODELS[name]()
    inputs = {key: value[:, :9] if value.ndim == 2 else value for key, value in asked(model, name).items()}
    with SYSTEMS[system].at_budget(model, 10**9).prepare(model) as prepared:
        assert train(prepared, inputs, steps=1)[0] > 0
        counted = sum(p.numel() for p in prepared.parameters)
        # LoReFT stores its rotations with coordinates that are fixed.
        assert counted == prepared.n_parameters if system != "LoReFT" else counted > prepared.n_parameters


def test_the_moments_that_are_counted_are_those_that_are_held():
    wider_than_keys = ("GaLore", GaLore(rank=12))
    for system, chosen in (*INSTANCES.items(), wider_than_keys):
        name = "bert" if system in ("BitFit", "SpFT") else "llama"
        with chosen.prepare(tiny(name)) as prepared:
            optimizer = prepared.optimizer(lr=1e-3)
            prepared.model(**asked(prepared.model, name)).loss.backward()
            optimizer.step()
            keys = ("mean", "square") if system == "GaLore" else ("exp_avg", "exp_avg_sq")
            held = [sum(state[key].numel() for state in optimizer.state.values() if key in state) for key in keys]
        fixed = 2 * 2 * 3 // 2 if system == "LoReFT" else 0
        assert held == [prepared.n_moments + fixed] * 2, system


# Heads


def test_a_head_is_trained_beside_every_system_and_counted_apart():
    for system, chosen in INSTANCES.items():
        torch.manual_seed(2)
        model = Classifier()
        before, head = weights(model), list(model.head.parameters())
        within = chosen.n_parameters(model)
        with chosen.prepare(model, heads=["head"]) as prepared:
            shared = {"FullFT": 34, "LISA": 34, "BitFit": 2}.get(system, 0)
            assert prepared.n_parameters == within - shared
            assert [id(p) for p in prepared.heads] == [id(p) for p in head]
            assert len({id(p) for p in prepared.parameters}) == len(prepared.parameters)
            train(prepared, asked(model, "wrapped"), steps=2)
            assert not any(torch.equal(p, before[f"head.{n}"]) for n, p in model.head.named_parameters()), system
        assert same(before, weights(model))


# What each does


def test_a_series_adapter_follows_attention_and_feed_forward_network():
    model, reference = tiny("llama"), tiny("llama")
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    with SeriesAdapter(units=4).prepare(model) as prepared, torch.no_grad():
        for p in prepared.parameters:
            p.normal_()
        adapter = model.model.layers[1].mlp.down_proj.adapter
        plain = reference.model.layers[1].mlp(x)
        down, up = adapter.down, adapter.up
        expected = plain + torch.relu(plain @ down.weight.T + down.bias) @ up.weight.T + up.bias
        torch.testing.assert_close(model.model.layers[1].mlp(x), expected)
        assert hasattr(model.model.layers[0].self_attn.o_proj, "adapter")


def test_a_parallel_adapter_reads_the_networks_input():
    model, reference = tiny("llama"), tiny("llama")
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    with ParallelAdapter(units=4, scale=3.0).prepare(model) as prepared, torch.no_grad():
        for p in prepared.parameters:
            p.normal_()
        adapter = model.model.layers[1].mlp.down_proj.adapter
        beside = torch.relu(x @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
        expected = reference.model.layers[1].mlp(x) + 3.0 * beside
        torch.testing.assert_close(model.model.layers[1].mlp(x), expected)


def test_a_copy_of_a_prepared_model_has_adapters_of_its_own():
    model, inputs = tiny("llama"), batch("llama")
    for system in (ParallelAdapter(units=4), SeriesAdapter(units=4), LoReFT(rank=2, first=2)):
        with system.prepare(model) as prepared, torch.no_grad():
            twin = copy.deepcopy(model)
            before = twin(**inputs).loss
            for p in prepared.parameters:
                p.add_(0.3)
            assert torch.equal(twin(**inputs).loss, before)
            assert not torch.equal(model(**inputs).loss, before)


def test_loreft_replaces_what_the_stream_has_in_its_subspace():
    model = tiny("llama")
    with LoReFT(rank=3, blocks=(1,)).prepare(model) as prepared:
        train(prepared, batch("llama"), steps=20, lr=0.1, weight_decay=0.5)
        edit = model.model.layers[1].loreft
        turn = edit.turn.weight
        torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
        h = torch.randn(2, 5, 16, dtype=torch.float64)
        torch.testing.assert_close(edit(h) @ turn.T, edit.target(h))
        away = h - (h @ turn.T) @ turn
        torch.testing.assert_close(edit(h) - (edit(h) @ turn.T) @ turn, away)
        assert not hasattr(model.model.layers[0], "loreft")


@pytest.mark.parametrize("name", ["llama", "wrapped"])
def test_loreft_edits_the_first_and_the_last_tokens_of_every_row(name):
    model = MODELS[name]()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]])
    inputs = batch("llama", n=3) | {"attention_mask": mask, "labels": torch.tensor([0, 1, 1])}
    if name == "llama":
        del inputs["labels"]
    seen = []
    with LoReFT(rank=2, blocks=(0,), first=2, last=1).prepare(model):
        block = places.blocks(model)[0][1]
        block.loreft.register_forward_hook(lambda module, given, edited: seen.append((given[0], edited)))
        with torch.no_grad():
            model(**inputs)
    changed = (seen[0][0] != seen[0][1]).any(-1)
    expected = [[1, 1, 0, 0, 0, 0, 1], [1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0, 1]]
    assert changed.int().tolist() == expected


@pytest.mark.parametrize("fields", [{}, {"first": 2}])
def test_loreft_says_the_same_from_a_cache(fields):
    model = tiny("llama")
    ids = batch("llama")["input_ids"]
    with LoReFT(rank=2, **fields).prepare(model), torch.no_grad():
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        begun = model(input_ids=ids[:, :4], attention_mask=torch.ones_like(ids[:, :4]), use_cache=True)
        rest = model(
            input_ids=ids[:, 4:], attention_mask=torch.ones_like(ids), past_key_values=begun.past_key_values
        ).logits
    torch.testing.assert_close(torch.cat([begun.logits, rest], 1), whole, atol=1e-6, rtol=1e-6)


def test_spft_draws_other_entries_in_every_map_and_the_same_for_the_same_seed():
    def drawn(seed):
        model = tiny("llama")
        with SpFT(rank=2, seed=seed).prepare(model) as prepared:
            with torch.no_grad():
                for p in prepared.parameters:
                    p.fill_(1.0)
            maps = [module for _, module in model.named_modules() if hasattr(module, "shira_weight")]
            return [module.get_delta_weight("default").to_dense() for module in maps]

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(delta.sum() == 2 * sum(delta.shape) and set(delta.unique().tolist()) <= {0.0, 1.0} for delta in one)
    alike = [delta for delta in one if delta.shape == (16, 16)]
    assert len(alike) == 4
    assert not any(torch.equal(a, b) for i, a in enumerate(alike) for b in alike[:i])


def test_adalora_gives_up_triplets_and_keeps_the_rest_orthogonal():
    torch.manual_seed(1)
    model = tiny("llama")
    system = AdaLoRA(rank=4, kept=0.5, steps=30, warmup=0.1, settle=0.3)
    with system.prepare(model) as prepared:
        values = [p for name, p in model.named_parameters() if ".lora_E." in name]
        left = [p for name, p in model.named_parameters() if ".lora_B." in name]
        divisors = [p for name, p in model.named_parameters() if ".ranknum." in name]
        optimizer, kept, off = prepared.optimizer(lr=3e-2), [], []
        for _ in range(30):
            model(**batch("llama")).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            kept.append(sum(int((p != 0).sum()) for p in values))
            off.append(sum(float((p.T @ p - torch.eye(4)).detach().norm()) for p in left))
        assert kept[:3] == [56] * 3  # 14 maps of rank 4
        assert sorted(kept, reverse=True) == kept
        assert kept[-9:] == [28] * 9
        assert off[-1] < 0.5 * off[0]
        assert all(not p.requires_grad and p.item() == 4.0 for p in divisors)


def test_prefix_tuning_works_from_a_cache_and_with_padding():
    torch.manual_seed(0)
    model = tiny("llama")
    ids = batch("llama", n=1, length=6)["input_ids"]
    padded = torch.cat([ids, ids[:, :2]], 1)
    mask = torch.tensor([[1] * 6 + [0] * 2])
    with PrefixTuning(tokens=3).prepare(model) as prepared, torch.no_grad():
        plain = prepared.model(input_ids=ids, attention_mask=mask[:, :6]).logits
        torch.testing.assert_close(
            prepared.model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :6], plain
        )
        greedy = prepared.model.generate(input_ids=ids, attention_mask=mask[:, :6], max_new_tokens=2, do_sample=False)
        assert greedy[0, 6] == plain[0, -1].argmax()


# GaLore


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    start = {"wide": draw(5, 9), "tall": draw(9, 5), "vector": draw(6)}
    return {k: nn.Parameter(v) for k, v in start.items()}, lambda: {k: draw(*v.shape) for k, v in start.items()}


def galore(parameters, **settings):
    rank = settings.pop("rank")
    projected = {"params": [parameters["wide"], parameters["tall"]], "rank": rank}
    return ProjectedAdamW([projected, {"params": [parameters["vector"]]}], **settings)


def test_galore_is_adamw_on_what_the_projection_leaves():
    """Between two projections: AdamW on Z, where the weight is its start plus scale P Z."""
    ours, gradients = matrices()
    start = {k: p.detach().clone() for k, p in ours.items()}
    optimizer = galore(ours, rank=2, lr=0.05, gap=100, scale=0.3)
    inner, sides, reference = {}, {}, None
    for i in range(7):
        now = gradients()
        if i == 0:
            for k in ("wide", "tall"):
                u, _, vt = torch.linalg.svd(now[k])
                sides[k] = u[:, :2] if k == "wide" else vt[:2].T
                inner[k] = nn.Parameter(torch.zeros((2, 9) if k == "wide" else (9, 2), dtype=torch.float64))
            inner["vector"] = nn.Parameter(start["vector"].clone())
            reference = torch.optim.AdamW(inner.values(), lr=0.05, weight_decay=0.0)
        for k, p in ours.items():
            p.grad = now[k]
        inner["wide"].grad, inner["tall"].grad = sides["wide"].T @ now["wide"], now["tall"] @ sides["tall"]
        inner["vector"].grad = now["vector"]
        optimizer.step()
        reference.step()
        torch.testing.assert_close(ours["wide"].data, start["wide"] + 0.3 * sides["wide"] @ inner["wide"].data)
        torch.testing.assert_close(ours["tall"].data, start["tall"] + 0.3 * inner["tall"].data @ sides["tall"].T)
        torch.testing.assert_close(ours["vector"].data, inner["vector"].data)


@pytest.mark.parametrize(("eps", "agrees"), [(1e8, True), (1e-8, False)])
def test_galore_of_full_rank_is_adamw_only_where_the_second_moment_does_not_matter(eps, agrees):
    ours, gradients = matrices()
    theirs = {k: nn.Parameter(p.detach().clone()) for k, p in ours.items()}
    lr = 0.1 * max(eps, 1.0)
    optimizer = galore(ours, rank=5, lr=lr, eps=eps, weight_decay=0.1 / lr, gap=1, scale=1.0)
    reference = torch.optim.AdamW(theirs.values(), lr=lr, eps=eps, weight_decay=0.1 / lr)
    now = gradients()
    for k in ours:
        ours[k].grad, theirs[k].grad = now[k].clone(), now[k].clone()
    optimizer.step()
    reference.step()
    torch.testing.assert_close(ours["vector"].data, theirs["vector"].data, rtol=1e-12, atol=1e-12)
    for k in ("wide", "tall"):
        assert torch.allclose(ours[k], theirs[k], rtol=1e-6, atol=1e-6) == agrees


def test_galore_projects_anew_after_every_gap():
    ours, gradients = matrices()
    optimizer = galore(ours, rank=2, lr=1e-3, gap=3)
    seen = []
    for _ in range(7):
        for k, gradient in gradients().items():
            ours[k].grad = gradient
        optimizer.step()
        seen.append(optimizer.state[ours["wide"]]["projection"].clone())
    fresh = [i for i in range(1, 7) if not torch.equal(seen[i], seen[i - 1])]
    assert fresh == [3, 6]
    torch.testing.assert_close(seen[-1].T @ seen[-1], torch.eye(2, dtype=torch.float64))


def test_galore_refuses_vectors_in_a_group_with_a_rank():
    with pytest.raises(ArgumentError, match="1 axes in a group of rank 2"):
        ProjectedAdamW([{"params": [nn.Parameter(torch.zeros(3))], "rank": 2}])


# LISA


def test_lisa_trains_the_drawn_blocks_and_forgets_the_others():
    model = tiny("llama", torch.float32)
    model.model.layers.extend(copy.deepcopy(model.model.layers))  # four blocks: some are drawn, some are not
    for i, block in enumerate(model.model.layers):
        block.self_attn.layer_idx = i
    model.config.num_hidden_layers = 4
    blocks = [list(block.parameters()) for block in model.model.layers]
    inputs = batch("llama")
    with LISA(active=2, interval=3, seed=4).prepare(model) as prepared:
        optimizer = prepared.optimizer(lr=1e-3)
        chosen = []
        for _ in range(15):
            active = [i for i, block in enumerate(blocks) if all(p.requires_grad for p in block)]
            assert sum(any(p.requires_grad for p in block) for block in blocks) == len(active) == 2
            before = [[p.detach().clone() for p in block] for block in blocks]
            model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            moved = [
                i
                for i, block in enumerate(blocks)
                if any(not torch.equal(p, old) for p, old in zip(block, before[i], strict=True))
            ]
            assert moved == active
            kept = [i for i, block in enumerate(blocks) if any(p in optimizer.state for p in block)]
            assert set(kept) <= {i for i, block in enumerate(blocks) if block[0].requires_grad}
            assert model.lm_head.weight in optimizer.state
            chosen.append(tuple(active))
    assert all(len(set(chosen[i : i + 3])) == 1 for i in range(0, 15, 3))
    assert len(set(chosen)) > 2
    assert {i for active in chosen for i in active} == {0, 1, 2, 3}


# Half precision, layouts


@pytest.mark.parametrize("system", [s for s in INSTANCES if s not in ("BitFit", "FullFT", "TopLayers", "LISA")])
def test_in_half_precision_what_is_added_is_trained_in_full(system):
    torch.manual_seed(0)
    model = tiny("llama", torch.bfloat16)
    before = weights(model)
    with INSTANCES[system].prepare(model) as prepared:
        added = torch.bfloat16 if system == "GaLore" else torch.float32
        assert {p.dtype for p in prepared.parameters} == {added}
        losses = train(prepared, batch("llama"), steps=6)
        assert losses[-1] < losses[0]
    assert same(before, weights(model))


def test_a_layout_opens_models_that_linnet_does_not_know():
    model, known = tiny("llama"), LoRA(rank=2).n_parameters(tiny("llama"))
    model.config.model_type = "new"
    with pytest.raises(StructureError, match="layout="):
        LoRA(rank=2).prepare(model)
    layout = LAYOUTS["llama"]
    assert LoRA(rank=2, layout=layout).n_parameters(model) == known
    with LoRA.at_budget(model, known, layout=layout).prepare(model) as prepared:
        assert prepared.system.rank == 2
        assert prepared.n_parameters == known
    assert TopLayers().prepare(model).n_parameters == TopLayers().n_parameters(tiny("llama"))


def test_roles_choose_the_maps():
    model = tiny("gpt2")
    with LoRA(rank=1, roles=("query", "value")).prepare(model) as prepared:  # both are in c_attn
        names = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert names == {f"transformer.h.{i}.attn.c_attn" for i in range(2)}
        assert prepared.n_parameters == 2 * (16 + 48)


# What is refused


@pytest.mark.parametrize(
    ("kind", "fields", "blamed"),
    [
        (LoRA, {"rank": 0}, "rank=0"),
        (LoRA, {"rank": True}, "rank=True"),
        (LoRA, {"rank": 2.0}, "rank=2.0"),
        (LoRA, {"scale": 0.0}, "scale=0.0"),
        (LoRA, {"dropout": 1.0}, "dropout=1.0"),
        (LoRA, {"roles": ("query", "gates")}, "roles="),
        (LoRA, {"roles": ()}, "roles="),
        (LoRA, {"roles": "query"}, "roles="),
        (SpFT, {"seed": -1}, "seed=-1"),
        (TopLayers, {"layers": 0}, "layers=0"),
        (AdaLoRA, {"kept": 0.0}, "kept=0.0"),
        (AdaLoRA, {"warmup": 0.6, "settle": 0.4}, "together below 1"),
        (AdaLoRA, {"penalty": -1.0}, "penalty=-1.0"),
        (PrefixTuning, {"tokens": 0}, "tokens=0"),
        (SeriesAdapter, {"units": 0}, "units=0"),
        (ParallelAdapter, {"scale": float("inf")}, "scale=inf"),
        (LoReFT, {"first": -1}, "first=-1"),
        (LoReFT, {"blocks": (0, 0)}, "blocks="),
        (GaLore, {"gap": 0}, "gap=0"),
        (GaLore, {"scale": float("nan")}, "scale=nan"),
        (LISA, {"active": 0}, "active=0"),
        (LISA, {"interval": 0}, "interval=0"),
    ],
)
def test_fields_out_of_range_are_refused(kind, fields, blamed):
    with pytest.raises(ArgumentError, match=re.escape(blamed)):
        kind(**fields)


@pytest.mark.parametrize(
    ("system", "name", "blamed"),
    [
        (BitFit(), "llama", "has no biases"),
        (SpFT(), "gpt2", "Conv1D"),
        (SpFT(rank=9), "llama", "give 1 to 5"),
        (TopLayers(layers=3), "llama", "the last 3 of 2 blocks"),
        (LISA(active=3), "opt", "3 of 2 blocks"),
        (LoReFT(rank=17), "bert", "rank 17 in a residual stream of 16"),
        (LoReFT(blocks=(2,)), "bert", "counted from 0"),
        (LoRA(roles=("gate",)), "gpt2", "has no gate"),
    ],
)
def test_what_a_model_lacks_is_refused_and_the_model_is_as_it_was(system, name, blamed):
    model = tiny(name)
    build = anatomy(model)
    with pytest.raises(StructureError, match=blamed):
        system.prepare(model)
    assert anatomy(model) == build


def test_what_goes_wrong_half_way_is_undone(monkeypatch):
    model = tiny("llama")
    build, before = anatomy(model), weights(model)
    monkeypatch.setattr(model.model.layers[1].mlp.down_proj, "adapter", nn.Identity(), raising=False)
    with pytest.raises(StructureError, match="has a 'adapter' already"):
        ParallelAdapter().prepare(model)
    monkeypatch.undo()
    assert anatomy(model) == build
    assert same(before, weights(model))


def test_a_prefix_is_refused_by_what_has_no_past():
    config = transformers.DistilBertConfig(vocab_size=31, dim=16, n_layers=2, n_heads=4, hidden_dim=24)
    for model in (transformers.DistilBertModel(config), nn.ModuleList([nn.Linear(2, 2)])):
        with pytest.raises(StructureError, match="takes none"):
            PrefixTuning().prepare(model)
    assert TopLayers().n_parameters(transformers.DistilBertModel(config)) > 0  # its blocks are found all the same


def test_a_prefix_and_checkpointing_of_gradients_exclude_each_other():
    model = tiny("llama")
    model.gradient_checkpointing_enable()
    build = anatomy(model)
    with pytest.raises(ArgumentError, match="gradient_checkpointing_disable"):
        PrefixTuning().prepare(model)
    assert anatomy(model) == build


def test_a_model_is_prepared_once_at_a_time():
    model = tiny("llama")
    prepared = LoRA().prepare(model)
    with pytest.raises(ArgumentError, match="already prepared for LoRA; restore it"):
        IA3().prepare(model)
    prepared.restore()
    prepared.restore()
    with pytest.raises(ArgumentError, match="was restored; prepare it again for LoRA"):
        prepared.optimizer(lr=1e-3)
    IA3().prepare(model).restore()


def test_budgets_and_models_that_are_none_are_refused():
    model = tiny("llama")
    for budget in (0, -3, 10.0, True):
        with pytest.raises(ArgumentError, match="n_parameters="):
            LoRA.at_budget(model, budget)
    with pytest.raises(ArgumentError, match="the budget decides rank"):
        LoRA.at_budget(model, 10**4, rank=3)
    with pytest.raises(ArgumentError, match="a model is a torch module"):
        FullFT().prepare("model")
    with pytest.raises(StructureError, match="no transformer blocks"):
        TopLayers().prepare(nn.Linear(2, 2))
    two = nn.ModuleList([tiny("llama"), tiny("llama")])
    with pytest.raises(StructureError, match="holds 2 transformers: 0, 1"):
        LoRA().prepare(two)


@pytest.mark.parametrize(
    ("heads", "blamed"),
    [
        (["heads"], "no module 'heads'"),
        ("head", "give a list"),
        ([""], "no weights"),
        (["encoder.encoder.layer.0.output"], "blocks are the system's"),
    ],
)
def test_heads_that_are_none_are_refused(heads, blamed):
    with pytest.raises(ArgumentError, match=blamed):
        LoRA().prepare(Classifier(), heads=heads)


# The table


def test_the_table_has_a_row_for_every_system():
    rows = {row.name: row for row in table()}
    assert len(rows) == len(SYSTEMS)
    assert {row.origin for row in rows.values()} == {"torch", "peft", "linnet"}
    assert {name for name, row in rows.items() if not row.merges} == {
        "Prefix tuning",
        "Series adapter",
        "Parallel adapter",
        "LoReFT",
    }
    model = tiny("llama")
    counted = {row.name: row for row in table(model, budget=600)}
    assert counted["SpFT"].instance == "SpFT(rank=1)"
    assert counted["SpFT"].n_parameters == counted["SpFT"].n_moments == 464
    assert "has no biases" in counted["BitFit"].why_not
    assert "budget is 600" in counted["LISA"].why_not
    assert counted["LISA"].n_parameters is None
    assert counted["GaLore"].n_moments <= 600 < counted["GaLore"].n_parameters
    assert {row.name for row in table(model) if row.why_not} == {"BitFit", "S2FT"}  # which comes for larger models


def test_what_merges_does_merge():
    """Of peft's layers that say so: the merged base model computes what the layers did."""
    for system in (LoRA(rank=3), DoRA(rank=3), AdaLoRA(rank=3), IA3(), SpFT(rank=2)):
        torch.manual_seed(1)
        model = tiny("llama")
        inputs = batch("llama")
        with system.prepare(model) as prepared:
            assert type(system).merges
            train(prepared, inputs)
            with torch.no_grad():
                apart = model(**inputs).logits
                for module in model.modules():
                    if hasattr(module, "merge"):
                        module.merge()
                torch.testing.assert_close(model(**inputs).logits, apart, rtol=1e-6, atol=1e-6)
                assert all(module.merged for module in model.modules() if hasattr(module, "merge"))


def test_all_roles_are_used():
    assert LoRA().roles == ROLES
