"""A tokenizer of letters, and tiny models that go with it."""

import copy
import functools

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from linnet.llm.models import LanguageModel

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
WORDS = ["Ġyes", "Ġno"]
"""What is one token besides the letters; Ġ is a space."""


@functools.cache
def tokenizer():
    """Return a tokenizer: a token a letter, and two words that are one."""
    vocabulary = ["<end>", "<pad>", *LETTERS, "Ġy", "Ġye", "Ġn", *WORDS]
    merges = [("Ġ", "y"), ("Ġy", "e"), ("Ġye", "s"), ("Ġ", "n"), ("Ġn", "o")]
    own = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    return t.PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<end>", pad_token="<pad>", model_max_length=64, padding_side="left"
    )


def writer(seed=0, dtype=torch.float64, **sizes):
    """Return a tiny causal model with random weights."""
    torch.manual_seed(seed)
    config = t.LlamaConfig(
        **{
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "vocab_size": len(tokenizer()),
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
            "eos_token_id": 0,
            "bos_token_id": None,
            "pad_token_id": 1,
        }
        | sizes
    )
    return t.LlamaForCausalLM(config).to(dtype).eval()


def reader(seed=0, dtype=torch.float64, dropout=0.1):
    """Return a tiny encoder with random weights."""
    torch.manual_seed(seed)
    config = t.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=len(tokenizer()),
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=1,
    )
    return t.BertModel(config, add_pooling_layer=False).to(dtype).eval()


def language(kind, **sizes):
    """Return a tiny model that reads long prompts letter by letter."""
    long = copy.deepcopy(tokenizer())
    long.model_max_length = 512
    model = writer(max_position_embeddings=512, **sizes) if kind == "causal" else reader()
    return LanguageModel("tiny", kind, model.requires_grad_(False), long, {}, "a tiny model")


def folder(path, model):
    """Write a model with its tokenizer."""
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
