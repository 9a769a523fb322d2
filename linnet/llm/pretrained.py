"""A model from a folder: safetensors or GGUF, nothing else; nothing is fetched, and nothing unpickled."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging

from linnet.errors import DataError

Kind = Literal["causal", "encoder"]


def read(folder: Path) -> tuple[Any, Any, Kind]:
    """Return model, tokenizer and kind of a folder in the format of Hugging Face.

    Raises:
        DataError: weights that would have to be unpickled, or are not complete; a model of another kind; an adapter.
    """
    gguf = _weights(folder)
    if gguf is None:
        return _pretrained(folder, {})
    place = _converted(folder / gguf)
    if place is not None and place.is_dir():
        return _pretrained(place, {})
    found = _pretrained(folder, {"gguf_file": gguf})
    if place is not None:
        _keep(found[0], found[1], place)
    return found


def cache() -> Path | None:
    """Return the folder in which converted models are kept; None if none are.

    It is ``LINNET_CACHE``, and none if that is empty; if it is not set, ``linnet`` in the user's folder for caches.
    """
    named = os.environ.get("LINNET_CACHE")
    if named is not None:
        return Path(named).expanduser() if named else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linnet"


def _converted(file: Path) -> Path | None:
    """Return where the conversion of a GGUF file is kept: it takes half a minute to read, and a converted one a second.

    Its name depends on the file's content, and on the versions of what converts it.
    """
    place = cache()
    if place is None:
        return None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    for package in ("transformers", "tokenizers", "gguf"):
        digest.update(importlib.metadata.version(package).encode())
    return place / f"{file.stem}-{digest.hexdigest()[:16]}"


def _keep(model: Any, tokenizer: Any, place: Path) -> None:
    """Write a converted model to its place, all of it or nothing; where it cannot be written, it is not kept."""
    with suppress(OSError):  # of two processes that convert at once, the later finds the place taken
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as unfinished:
            whole = Path(unfinished) / place.name
            with quiet():
                model.save_pretrained(whole)
                tokenizer.save_pretrained(whole)
            whole.rename(place)


def _weights(folder: Path) -> str | None:
    """Return the name of the folder's GGUF file, None if its weights are safetensors.

    Raises:
        DataError: it has neither, or it is an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise DataError(f"{folder} holds an adapter; merge it into its base model, and save that with save_pretrained")
    if any(folder.glob("*.safetensors")):
        return None
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{folder} holds several models: {', '.join(found)}; put the one that is meant into its own folder"
        )
    pickled = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
    if pickled:
        raise DataError(
            f"{folder} holds its weights as {pickled[0]}, a pickle, which can run any code when it is read; if you "
            "trust it, convert it: transformers' AutoModelForCausalLM (or AutoModel).from_pretrained(folder)"
            ".save_pretrained(new_folder) writes safetensors"
        )
    raise DataError(f"{folder} holds no weights; give a folder with model.safetensors, or with one GGUF file")


def _kind(config: Any, folder: Path) -> Kind:
    """Return what a model of this configuration does.

    Raises:
        DataError: neither of the two kinds.
    """
    named = (config.architectures or [None])[0]
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    writes = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked
    if named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or (named is None and writes):
        return "causal"
    if masked and not config.is_encoder_decoder:
        return "encoder"
    raise DataError(
        f"{folder} holds a {named or config.model_type}, which is neither a causal language model nor an encoder; give "
        "the folder of one, such as LlamaForCausalLM or BertModel"
    )


def _pretrained(folder: Path, file: dict[str, str]) -> tuple[Any, Any, Kind]:
    """Return model, tokenizer and kind, every weight read from the folder."""
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": folder,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    where |= file
    # A GGUF file's numbers are kept in blocks unless they are asked for, and blocks cannot be trained.
    how: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)} if file else {"use_safetensors": True}
    with quiet(), _readable(folder):
        config = AutoConfig.from_pretrained(**where)
        kind = _kind(config, folder)
        form: Any = AutoModelForCausalLM if kind == "causal" else AutoModel
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model, report = form.from_pretrained(
            **where, **how, config=config, dtype=torch.float32, output_loading_info=True
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # sentences are means here; a pooler would be counted and never trained
    missing = [key for key in sorted(report["missing_keys"]) if not key.startswith("pooler.")]
    if missing:
        raise DataError(f"{folder} lacks {len(missing)} weights of its model, such as {missing[0]}; complete it")
    return model, tokenizer, kind


@contextmanager
def quiet() -> Iterator[None]:
    """Show neither progress bars nor warnings of what is checked for here."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Say of any failure of the libraries which folder it is about."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the libraries raise whatever they come across
        raise DataError(f"{folder} cannot be read as a model: {line(error)}") from error


def line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
