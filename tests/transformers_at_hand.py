"""Tiny transformers with random weights, one of each layout that linnet.llm knows."""

import functools

import torch
import transformers as t

from linnet.llm.layer import S2FTLayer

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 31}
FED = SMALL | {"intermediate_size": 24, "max_position_embeddings": 32}
GROUPED = FED | {"num_key_value_heads": 2}
ENCODER = FED | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24, "vocab_size": 31, "n_positions": 32}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GEMMA3 = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "query_pre_attn_scalar": 4}

CONFIGS = {
    "llama": (t.LlamaForCausalLM, t.LlamaConfig, GROUPED),
    "llama-mha": (
        t.LlamaForCausalLM,
        t.LlamaConfig,
        FED | {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-mqa": (t.LlamaForCausalLM, t.LlamaConfig, FED | {"num_key_value_heads": 1}),
    "mistral": (t.MistralForCausalLM, t.MistralConfig, GROUPED),
    "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config, GROUPED),
    "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config, GROUPED | {"head_dim": 6}),
    "gemma": (t.GemmaForCausalLM, t.GemmaConfig, GROUPED | {"head_dim": 6}),
    "gemma2": (t.Gemma2ForCausalLM, t.Gemma2Config, GROUPED | {"head_dim": 6, "sliding_window": 8}),
    "gemma3_text": (t.Gemma3ForCausalLM, t.Gemma3TextConfig, GROUPED | {"head_dim": 6} | GEMMA3),
    "gpt2": (t.GPT2LMHeadModel, t.GPT2Config, GPT2 | STILL),
    "opt": (
        t.OPTForCausalLM,
        t.OPTConfig,
        SMALL | {"ffn_dim": 24, "max_position_embeddings": 32, "dropout": 0.0, "word_embed_proj_dim": 16},
    ),
    "bert": (t.BertForSequenceClassification, t.BertConfig, ENCODER),
    "roberta": (t.RobertaForSequenceClassification, t.RobertaConfig, ENCODER),
    "xlm-roberta": (t.XLMRobertaForSequenceClassification, t.XLMRobertaConfig, ENCODER),
    "electra": (t.ElectraForSequenceClassification, t.ElectraConfig, ENCODER | {"embedding_size": 16}),
}
NAMES = tuple(CONFIGS)


@functools.cache
def _state(name):
    torch.manual_seed(20240611)
    kind, config, sizes = CONFIGS[name]
    model = kind(config(**sizes, pad_token_id=0)).double()
    with torch.no_grad():  # biases and norms start at 0 and 1, where errors would not show
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.state_dict()


def tiny(name="llama", dtype=torch.float64):
    """Return a tiny model, the same each time, in evaluation mode."""
    kind, config, sizes = CONFIGS[name]
    model = kind(config(**sizes, pad_token_id=0))
    model.load_state_dict(_state(name))
    return model.to(dtype).eval()


def batch(name="llama", n=3, length=7, seed=1):
    """Return keyword arguments for a model, with labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 31, (n, length), generator=generator)
    encoder = CONFIGS[name][0].__name__.endswith("Classification")
    labels = torch.randint(0, 2, (n,), generator=generator) if encoder else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def weights(model):
    """Return copies of all weights by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, other):
    """Return whether two sets of weights are bitwise the same."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def layers(model):
    """Return the layers of a model under S2FT that are trained in part."""
    return [m for m in model.modules() if isinstance(m, S2FTLayer)]


def fill(model, adapter="default", seed=3):
    """Give an adapter random increments; return the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers(model):
            if adapter in layer.s2ft_delta:
                p = layer.s2ft_delta[adapter]
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model
