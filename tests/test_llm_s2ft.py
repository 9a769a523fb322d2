"""S2FT as a method of peft: what is trained, what is given back, what is saved, what is refused."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers_at_hand import NAMES, batch, same, tiny, weights

import linnet.llm
from linnet.errors import AdapterError, ArgumentError, BudgetError, LinnetError, StructureError
from linnet.llm import S2FTConfig, S2FTModel, registration
from linnet.llm.layer import S2FTLayer

EXACT = ("gpt2", "opt", "bert", "roberta", "xlm-roberta", "electra")
"""Families that compute in float64 throughout; the others take norms in float32."""
EVERY = ["query", "key", "value", "output", "up", "gate", "down"]


def targets_of(name, every):
    gated = name not in EXACT
    return [r for r in EVERY if r != "gate" or gated] if every else ["output", "down"]


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, S2FTLayer)}


def canonical(module, tensor):
    return tensor.T if type(module.get_base_layer()).__name__ == "Conv1D" else tensor


def descend(model, data, steps=3, lr=5e-2):
    """Train a little; return the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr, weight_decay=0.0)
    model.train()
    out = []
    for _ in range(steps):
        loss = model(**data).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        out.append(loss.item())
    return out


def trained(name="llama", adapter="default", seed=0, **config):
    """Return a peft model after a few steps."""
    model = get_peft_model(tiny(name), S2FTConfig(**{"ratio": 0.15, "seed": seed} | config), adapter_name=adapter)
    descend(model, batch(name))
    return model.eval()


@pytest.mark.parametrize("form", ["permuted", "gather"])
@pytest.mark.parametrize("every", [False, True], ids=["defaults", "all matrices"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slices_of_the_full_ones_and_the_base_comes_back(name, every, form):
    base, data = tiny(name), batch(name)
    before = weights(base)
    full = tiny(name).train()
    for _ in range(2):  # accumulated
        full(**data).loss.backward()
    gradients = {n: p.grad for n, p in full.named_parameters()}

    model = get_peft_model(base, S2FTConfig(targets=targets_of(name, every), ratio=0.15, form=form)).train()
    logits = model(**data).logits
    tolerance = 1e-12 if name in EXACT else 2e-5
    torch.testing.assert_close(logits, tiny(name)(**data).logits, rtol=tolerance, atol=tolerance)
    for _ in range(2):
        model(**data).loss.backward()
    for module_name, layer in layers(model.base_model.model).items():
        whole = canonical(layer, gradients[f"{module_name}.weight"])
        channels = torch.tensor(layer.channels["default"])
        mine = layer.s2ft_delta["default"].grad
        assert mine.shape == whole.index_select(layer.axis, channels).shape
        error = (mine - whole.index_select(layer.axis, channels)).abs().max()
        assert error <= (1e-12 if name in EXACT else 1e-4) * whole.abs().max()
    others = {n for n, p in model.named_parameters() if p.grad is not None}
    assert others == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("s2ft_delta" in n for n in others)
    descend(model, data)
    assert same(weights(model.unload()), before)


@pytest.mark.parametrize("form", ["permuted", "gather"])
def test_training_is_full_fine_tuning_of_the_selected_slices(form):
    """The same steps as plain SGD on the full weights, masked to the selection."""
    model = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15, form=form)).train()
    full = tiny("gpt2").train()
    data = batch("gpt2")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        model(**data).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        full(**data).loss.backward()
        with torch.no_grad():
            for n, layer in layers(model.base_model.model).items():
                p = full.get_submodule(n).weight  # (in, out) in GPT-2
                channels = list(layer.channels["default"])
                p[channels] -= 0.1 * p.grad[channels]
        full.zero_grad()
    merged = model.merge_and_unload()
    for n, p in full.named_parameters():
        torch.testing.assert_close(merged.get_parameter(n), p, rtol=1e-12, atol=1e-12)


def test_weights_are_reordered_when_training_begins_and_not_before():
    base = tiny()
    before = weights(base)
    model = get_peft_model(base, S2FTConfig(ratio=0.15))
    model.eval()
    model(**batch())
    plain = {n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in model.named_parameters()}
    assert all(torch.equal(plain[n], w) for n, w in before.items())
    model.train()
    model(**batch())
    assert not all(torch.equal(plain[n], w) for n, w in before.items())
    for layer in layers(model).values():
        assert layer.where("default").start == 0


def test_deep_models_are_trained_in_every_block(tmp_path):
    """peft shortens long lists of modules to endings, which may fit modules of other blocks."""
    config = tiny().config
    config.num_hidden_layers = 12
    config.layer_types = None
    base = type(tiny())(config)
    model = get_peft_model(base, S2FTConfig(ratio=0.15, targets=EVERY, blocks=[1, 2, 3, 4, 11]))
    names = {n.split(".layers.")[1].split(".")[0] for n in layers(model)}
    assert names == {"1", "2", "3", "4", "11"}
    assert len(layers(model)) == len(model.peft_config["default"].target_modules) == 35
    model.save_pretrained(tmp_path)
    assert len(layers(PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path))) == 35


def test_two_adapters_on_disjoint_channels_lie_side_by_side():
    base = tiny("llama-mha")
    before = weights(base)
    model = get_peft_model(base, S2FTConfig(ratio=0.06, seed=1), adapter_name="one")
    units = model.peft_config["one"].units
    model.add_adapter("two", S2FTConfig(ratio=0.06, seed=1, excluded=units))
    assert all(not set(units[k]) & set(v) for k, v in model.peft_config["two"].units.items())
    model.train()
    model(**batch())
    for layer in layers(model).values():
        first, second = layer.where("one"), layer.where("two")
        assert (first.start, second.start) == (0, first.stop)
    assert same(weights(model.unload()), before)


# --- several adapters, in and out -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["permuted", "gather"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_adapters_go_in_and_out_exactly(dtype, form):
    base = tiny(dtype=dtype)
    before = weights(base)
    data = batch()
    out = base(**data).logits
    model = get_peft_model(base, S2FTConfig(ratio=0.15, form=form, seed=1), adapter_name="one")
    model.add_adapter("two", S2FTConfig(ratio=0.1, form=form, seed=2, targets=EVERY))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "s2ft_delta" in n:
                p.copy_(torch.randn(p.shape, generator=generator))
    model.eval()
    results = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        results[name] = model(**data).logits
        model.merge_adapter()
        merged = model(**data).logits
        close = {torch.float64: 2e-5, torch.float32: 1e-3, torch.bfloat16: 0.3}[dtype]
        torch.testing.assert_close(merged, results[name], rtol=close, atol=close)
        model.unmerge_adapter()
    assert (results["one"] - results["two"]).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(model(**data).logits, out)
    model.set_adapter("one")
    assert torch.equal(model(**data).logits, results["one"])
    model.base_model.set_adapter(["one", "two"])
    both = model(**data).logits
    assert (both - results["one"]).abs().max() > 0.1
    model.delete_adapter("two")
    model.set_adapter("one")
    assert torch.equal(model(**data).logits, results["one"])
    assert same(weights(model.unload()), before)


def test_two_adapters_at_once_add_up_where_they_overlap():
    model = trained(adapter="one")
    model.add_adapter("two", S2FTConfig(ratio=0.15, seed=0))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in layers(model).values():
            layer.s2ft_delta["two"].copy_(2 * layer.s2ft_delta["one"])
        for layer in layers(other).values():
            layer.s2ft_delta["one"].mul_(3)
    model.base_model.set_adapter(["one", "two"])
    torch.testing.assert_close(model(**batch()).logits, other(**batch()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["permuted", "gather"])
def test_each_example_of_a_batch_may_have_its_own_adapter(form):
    model = trained(adapter="one", form=form)
    model.add_adapter("two", S2FTConfig(ratio=0.1, seed=7, form=form, targets=EVERY))
    model.set_adapter("two")
    descend(model, batch())
    model.eval()
    data = {k: v for k, v in batch().items() if k != "labels"}
    apart = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        apart[name] = model(**data).logits
    with model.disable_adapter():
        apart["__base__"] = model(**data).logits
    names = ["two", "__base__", "one"]
    mixed = model(**data, adapter_names=names).logits
    for i, name in enumerate(names):
        torch.testing.assert_close(mixed[i], apart[name][i], rtol=2e-5, atol=2e-5)
    with pytest.raises(AdapterError, match="no adapter is called three"):
        model(**data, adapter_names=["one", "three", "one"])
    with pytest.raises(ArgumentError, match="2 adapter names for 3 examples"):
        model(**data, adapter_names=["one", "two"])
    with pytest.raises(ArgumentError, match="call eval"):
        model.train()(**data, adapter_names=names)


def test_a_backward_pass_finds_the_weights_of_its_forward_pass():
    """As in preference training: a pass with the adapter, one without, and only then the gradient."""
    model, data = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15)), batch("gpt2")
    descend(model, data)
    model.zero_grad()
    model(**data).loss.backward()
    alone = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = model(**data).loss
    with model.disable_adapter(), torch.no_grad():
        reference = model(**data).loss
    (loss - reference).backward()
    for n, g in alone.items():
        assert torch.equal(model.get_parameter(n).grad, g)
    loss = model(**data).loss
    with torch.no_grad():
        for n in alone:
            model.get_parameter(n).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_merged_is_left_alone():
    model = trained()
    model.merge_adapter()
    with pytest.raises(AdapterError, match="unmerge_adapter"):
        model.add_adapter("more", S2FTConfig(ratio=0.1))
    assert "more" not in model.peft_config
    model.unmerge_adapter()
    model.unmerge_adapter()
    with torch.no_grad():
        next(iter(layers(model).values())).s2ft_delta["default"][0, 0] = float("nan")
    with pytest.raises(AdapterError, match="not finite"):
        model.merge_adapter(safe_merge=True)


# --- the life of a model --------------------------------------------------------------------------


def test_states_hold_an_increment_once():
    model, data = trained("gpt2"), batch("gpt2")
    out = model(**data).logits
    state = copy.deepcopy(model.state_dict())
    other = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15)).train()
    other(**data)
    other.load_state_dict(state)
    torch.testing.assert_close(other.eval()(**data).logits, out, rtol=1e-12, atol=1e-12)
    out = model(**data).logits  # taking the state has given the weights their order back
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(**data).logits, out)
        descend(again, data, 1)
        assert torch.equal(model(**data).logits, out)


def test_precision_may_change_under_way():
    model, data = trained(), batch()
    out = model(**data).logits
    assert torch.equal(model.float()(**data).logits.argmax(-1), out.argmax(-1))
    before = weights(tiny(dtype=torch.float32))
    assert same(weights(model.unload()), before)


def test_in_bfloat16_increments_are_kept_in_float32():
    model = get_peft_model(tiny(dtype=torch.bfloat16), S2FTConfig(ratio=0.15))
    deltas = [p for n, p in model.named_parameters() if "s2ft_delta" in n]
    assert {p.dtype for p in deltas} == {torch.float32}
    losses = descend(model, batch(), 6, 1e-3)
    assert losses[-1] < losses[0]
    base = model.unload()
    assert {p.dtype for p in base.parameters()} == {torch.bfloat16}
    assert same(weights(base), weights(tiny(dtype=torch.bfloat16)))
    plain = get_peft_model(tiny(dtype=torch.bfloat16), S2FTConfig(ratio=0.15), autocast_adapter_dtype=False)
    assert {p.dtype for n, p in plain.named_parameters() if "s2ft_delta" in n} == {torch.bfloat16}


def test_autocast_computes_in_its_own_precision():
    data = batch()
    grads = []
    for model in (
        tiny(dtype=torch.float32).train(),
        get_peft_model(tiny(dtype=torch.float32), S2FTConfig(ratio=0.15)).train(),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**data).loss
        loss.backward()
        grads.append((loss.item(), model))
    assert abs(grads[0][0] - grads[1][0]) < 0.03
    full, mine = grads[0][1], grads[1][1].base_model.model
    for n, layer in layers(mine).items():
        whole = full.get_parameter(f"{n}.weight").grad[:, list(layer.channels["default"])]
        assert layer.s2ft_delta["default"].grad.dtype == torch.float32
        assert (layer.s2ft_delta["default"].grad - whole).norm() < 0.1 * whole.norm()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    grads = []
    for checkpointed in (False, True):
        model = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15, targets=["output", "down", "value"])).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**batch("gpt2"), use_cache=False).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 0
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bias", ["none", "s2ft_only", "all"])
def test_biases_are_trained_as_asked_and_saved(tmp_path, bias):
    model = get_peft_model(tiny("bert"), S2FTConfig(ratio=0.15, bias=bias))
    before = weights(model)
    descend(model, batch("bert"))
    if bias == "none":
        model.base_model.restore_order()
    changed = {n for n, p in weights(model).items() if n.endswith("bias") and not torch.equal(p, before[n])}
    heads = {n for n in before if n.endswith("base_layer.bias")}
    if bias == "all":
        assert len(changed) > len(heads)
    else:
        assert changed == (set() if bias == "none" else heads)
    model.eval()
    out = model(**batch("bert")).logits
    model.save_pretrained(tmp_path / "peft")
    linnet.llm.save(model, tmp_path / "own")
    torch.testing.assert_close(
        PeftModel.from_pretrained(tiny("bert"), tmp_path / "peft")(**batch("bert")).logits, out, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        linnet.llm.load(tiny("bert"), tmp_path / "own").model(**batch("bert")).logits, out, rtol=1e-12, atol=1e-12
    )


class Texts(Dataset):
    def __init__(self, n):
        self.rows = batch(n=n, seed=3)

    def __len__(self):
        return len(self.rows["labels"])

    def __getitem__(self, i):
        return {k: v[i] for k, v in self.rows.items()}


def trainer(model, folder, **arguments):
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-2,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    return Trainer(model=model, args=TrainingArguments(**settings | arguments), train_dataset=Texts(16))


def test_the_trainer_trains_saves_and_resumes(tmp_path):
    model = get_peft_model(tiny(), S2FTConfig(ratio=0.15, task_type="CAUSAL_LM"))
    run = trainer(model, tmp_path, save_strategy="steps", save_steps=2, per_device_train_batch_size=16)
    run.train()
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    folder = tmp_path / "checkpoint-2"
    assert {p.name for p in folder.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert not list(folder.glob("pytorch_model*"))
    assert not list(folder.glob("model*.safetensors"))
    again = get_peft_model(tiny(), S2FTConfig(ratio=0.15, task_type="CAUSAL_LM"))
    trainer(again, tmp_path, per_device_train_batch_size=16).train(resume_from_checkpoint=str(folder))
    for n, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(again.get_parameter(n), p, rtol=1e-9, atol=1e-9)


def test_accumulated_steps_are_those_of_the_whole_batch(tmp_path):
    results = []
    for size, times in ((8, 1), (2, 4)):
        model = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15))
        trainer(
            model,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=times,
            max_steps=3,
            max_grad_norm=0.1,
        ).train()
        results.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def _replica(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo")
    model = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15))
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    data = batch("gpt2", n=4)
    for _ in range(2):
        ddp(**{k: v[2 * rank : 2 * rank + 2] for k, v in data.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if rank == 0:
        linnet.llm.save(model, folder)
    torch.distributed.barrier()
    # Without taking the group apart: torch waits for its thread holding the GIL, for which that thread may be waiting.
    os._exit(0)


def test_two_replicas_take_the_steps_of_one_with_both_batches(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_replica, (port, tmp_path), nprocs=2)
    model = get_peft_model(tiny("gpt2"), S2FTConfig(ratio=0.15)).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        model(**batch("gpt2", n=4)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    from safetensors.torch import load_file

    written = load_file(tmp_path / "adapter_model.safetensors")
    for n in [n for n in written if n.endswith(".s2ft_delta")]:
        value, mine = written[n], model.get_parameter(f"{n}.default")
        torch.testing.assert_close(value, mine, rtol=1e-9, atol=1e-12)


def test_accelerate_prepares_it(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = get_peft_model(tiny(), S2FTConfig(ratio=0.15)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for _ in range(6):
        with accelerator.accumulate(model):
            loss = model(**batch()).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# --- saved and loaded -----------------------------------------------------------------------------


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_what_is_saved_is_loaded(tmp_path, name, low_memory):
    model, data = trained(name, targets=["output", "down", "value"]), batch(name)
    out = model(**data).logits
    model.save_pretrained(tmp_path)
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 8 * n + 4000  # float64: the slices alone
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["units"] == model.peft_config["default"].units
    again = PeftModel.from_pretrained(tiny(name), tmp_path, low_cpu_mem_usage=low_memory)
    close = {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(again(**data).logits, out, **close)
    again.load_adapter(tmp_path, "second", low_cpu_mem_usage=low_memory)
    again.set_adapter("second")
    torch.testing.assert_close(again(**data).logits, out, **close)
    own = linnet.llm.load(tiny(name), tmp_path)
    torch.testing.assert_close(own.model(**data).logits, out, **close)
    onward = PeftModel.from_pretrained(tiny(name), tmp_path, is_trainable=True)
    assert descend(onward, data)[-1] < model(**data).loss
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(**data).logits, out, **close)
    assert isinstance(PeftConfig.from_pretrained(tmp_path), S2FTConfig)


def test_without_peft_s_registry_all_else_works(tmp_path):
    """In a fresh interpreter whose peft has a method of this name of its own."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import peft.utils.peft_types as types
kind = types.PeftType
member = str.__new__(kind, "S2FT"); member._name_ = member._value_ = "S2FT"
type.__setattr__(kind, "S2FT", member)
kind._member_map_["S2FT"] = member
kind._value2member_map_["S2FT"] = member
import torch, linnet.llm as llm
from linnet.llm import registration
from transformers_at_hand import batch, tiny, weights, same
assert "method S2FT of its own" in registration.REASON, registration.REASON
model = llm.S2FTModel(tiny(), llm.S2FTConfig(ratio=0.15)).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05)
loss = [] 
for _ in range(3):
    out = model(**batch()).loss; out.backward(); optimizer.step(); optimizer.zero_grad(); loss.append(out.item())
assert loss[-1] < loss[0]
model.eval()
out = model(**batch()).logits
llm.save(model, {str(tmp_path)!r})
again = llm.load(tiny(), {str(tmp_path)!r})
torch.testing.assert_close(again(**batch()).logits, out, rtol=2e-5, atol=2e-5)
llm.save_as_lora(model, {str(tmp_path / "lora")!r})
assert same(weights(model.unload()), weights(tiny()))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_peft_knows_s2ft():
    """If this fails, a new peft has changed its enumeration or its registry: see linnet/llm/registration.py."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    assert registration.REASON is None
    assert PeftType("S2FT") is PeftType.S2FT
    assert PeftType.S2FT in list(PeftType)
    assert PEFT_TYPE_TO_TUNER_MAPPING["S2FT"] is S2FTModel
    assert registration.register(S2FTConfig, S2FTModel) is None


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "best"}, "no strategy is called 'best'; choose of random"),
        ({"targets": ["output", "head"]}, "no target is called 'head'"),
        ({"targets": []}, "at least one"),
        ({"targets": ["down", "down"]}, "each once"),
        ({"form": "sparse"}, "no form"),
        ({"bias": "some"}, "no bias"),
        ({"ratio": 0.1, "n_parameters": 100}, "not both"),
        ({"ratio": 1.5}, "at most 1"),
        ({"n_parameters": 0}, "positive whole number"),
        ({"n_parameters": 10.0}, "positive whole number"),
        ({"units": {}}, "selects nothing"),
        ({"blocks": []}, "at least one"),
        ({"blocks": "01"}, "whole numbers"),
        ({"blocks": [1.0]}, "whole numbers"),
        ({"seed": -1}, "from 0"),
        ({"ratio": "0.1"}, "at most 1"),
        ({"units": {"model.layers.0/attention": [2.0]}}, "whole numbers"),
        ({"units": {"model.layers.0/attention": 3}}, "whole numbers"),
        ({"units": ["a"]}, "a mapping"),
        ({"excluded": [1]}, "a mapping"),
        ({"target_modules": ["q_proj"]}, "by targets"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        S2FTConfig(**settings)


UP_DOWN = {"up": "mlp.up_proj", "down": "mlp.down_proj"}
TWICE = {"up": "mlp.up_proj", "gate": "mlp.up_proj", "down": "mlp.down_proj"}


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"n_parameters": 3}, BudgetError, "select nothing in 2 blocks: one head or channel of each takes 32"),
        ({"ratio": 0.9}, BudgetError, "more than output, down of 2 blocks have"),
        ({"blocks": [2]}, StructureError, "blocks 0 to 1"),
        ({"units": {"model.layers.9/attention": [0]}}, StructureError, "has no model.layers.9"),
        ({"units": {"model.layers.0/attention": [4]}}, StructureError, "units 0 to 3"),
        ({"units": {"model.layers.0/attention": [1, 1]}}, StructureError, "at most once"),
        ({"units": {"model.layers.0/attention": [1]}, "targets": "down"}, StructureError, "none of its matrices"),
        ({"strategy": "G"}, ArgumentError, "calibrate"),
        ({"base": "0" * 64}, AdapterError, "another base model"),
        ({"layout": {"block": "layers.*"}}, StructureError, "names the matrices"),
        ({"layout": {"block": "h.*", "feed_forward": UP_DOWN}}, StructureError, "no transformer blocks"),
        (
            {"layout": {"block": "layers.*", "feed_forward": TWICE}},
            StructureError,
            "(up and gate|gate and up) .* in common",
        ),
        ({"excluded": {"model.layers.0/mlp": [0]}}, StructureError, "excluded names .* no such structure"),
        ({"excluded": {"model.layers.0/attention": [0, 4]}}, StructureError, "has units 0 to 3"),
    ],
)
@pytest.mark.parametrize("second", [False, True], ids=["first", "second adapter"])
def test_a_model_that_does_not_fit_is_refused_and_left_alone(settings, kind, message, second):
    base = tiny()
    before, modules = weights(base), [type(m) for m in base.modules()]
    config = S2FTConfig(**settings)
    if second:
        model = get_peft_model(base, S2FTConfig(ratio=0.15))
        with pytest.raises(kind, match=message):
            model.add_adapter("more", config)
        assert list(model.peft_config) == ["default"]
        base = model.unload()
    else:
        with pytest.raises(kind, match=message):
            get_peft_model(base, config)
    assert same(weights(base), before)
    assert [type(m) for m in base.modules()] == modules


def test_an_adapter_of_another_base_is_refused(tmp_path):
    trained().save_pretrained(tmp_path)
    other = tiny()
    with torch.no_grad():
        other.get_submodule("model.layers.1.mlp.down_proj").weight.mul_(1.05)
    before, modules = weights(other), [type(m) for m in other.modules()]
    for load in (PeftModel.from_pretrained, linnet.llm.load):
        with pytest.raises(AdapterError, match="trained on another base model"):
            load(other, tmp_path)
        assert same(weights(other), before)
        assert [type(m) for m in other.modules()] == modules
    PeftModel.from_pretrained(tiny(dtype=torch.float32), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base": None}))
    PeftModel.from_pretrained(other, tmp_path)


def broken(folder, how):
    path = folder / "adapter_model.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "a pickle":
        path.unlink()
        torch.save({"a": torch.zeros(1)}, folder / "adapter_model.bin")
    elif how == "no weights":
        path.unlink()
    elif how == "no JSON":
        (folder / "adapter_config.json").write_text("{")
    elif how == "no units":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"units": None}))
    elif how == "other modules":
        from safetensors.torch import load_file, save_file

        rows = load_file(path)
        rows.pop(next(name for name in rows if name.endswith("s2ft_delta")))
        save_file(rows, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "is broken"),
        ("a pickle", "adapter_model.bin is a pickle, which is not read"),
        ("no weights", "has no adapter_model.safetensors"),
        ("no JSON", "no JSON|Expecting"),
        ("no units", "does not say which units"),
        ("other modules", "name different modules"),
    ],
)
@pytest.mark.parametrize("load", [PeftModel.from_pretrained, linnet.llm.load], ids=["peft", "linnet"])
def test_a_broken_adapter_is_refused_before_the_model_is_touched(tmp_path, how, message, load):
    trained().save_pretrained(tmp_path)
    broken(tmp_path, how)
    base = tiny()
    before, modules = weights(base), [type(m) for m in base.modules()]
    with pytest.raises((LinnetError, json.JSONDecodeError), match=message):
        load(base, tmp_path)
    assert same(weights(base), before)
    assert [type(m) for m in base.modules()] == modules


def test_an_adapter_of_another_method_is_refused(tmp_path):
    from peft import LoraConfig

    get_peft_model(tiny(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="type LORA, not S2FT"):
        linnet.llm.load(tiny(), tmp_path)


def test_weights_that_are_not_in_memory_cannot_be_reordered():
    tuned = S2FTModel(tiny().to("meta"), S2FTConfig(ratio=0.15))
    assert tuned.peft_config["default"].base is None
    with pytest.raises(StructureError, match="not in memory"):
        tuned.arrange()
