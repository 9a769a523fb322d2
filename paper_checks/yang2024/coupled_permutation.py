"""yang2024, Sec. 3.1: permutation invariance of coupled structures."""

from linnet.trials import Block, claim


@claim(
    "yang2024/coupled-permutation",
    setting=Block,
    relation="==",
    source="yang2024, Sec. 3.1, basic structures",
    rescue=[Block.own_keys],
    replaced_by="linnet/coupled-permutation",
)
def co_permuted_in_the_same_order(block):
    r"""$W_1$ and $W_5$ can be co-permuted in the same order, which preserves the output of the structure: rows of
    $Q, K, V$ and columns of $O$ by heads; rows of up and gate and columns of down by channels. Where there are fewer
    key-value heads than query heads, $K$ and $V$ cannot take an order of the query heads: read here as $Q$ and $O$
    alone permuted. All kinds of attention: multi-head, grouped-query, multi-query; rotary or not; causal or not.
    """
    return block.permuted(block.order).output, block.output


@claim(
    "yang2024/coupled-permutation-multi-head",
    setting=Block,
    relation="==",
    source="yang2024, Sec. 3.2, each head has its own projections",
    hypotheses=[Block.multi_head],
)
def co_permuted_where_heads_have_their_own_keys(block):
    r"""The same as `yang2024/coupled-permutation` where each head has its own projections $Q_i, K_i, V_i, O_i$, as
    Sec. 3.2 defines them: LLaMA-7B and -13B, LLaMA2-7B; not LLaMA3-8B and Mistral-7B, where Sec. 5.4 finds an
    "inflexible selection in multi-query attention".
    """
    return block.permuted(block.order).output, block.output


@claim(
    "yang2024/coupled-permutation-with-keys",
    setting=Block,
    relation="==",
    source="yang2024, Sec. 3.1, basic structures",
    rescue=[Block.whole_groups],
    replaced_by="linnet/coupled-permutation",
)
def co_permuted_with_keys_and_values_following(block):
    r"""The same as `yang2024/coupled-permutation`, with fewer key-value heads read as co-permuted too: $K$ and $V$
    take the order in which the permuted query heads first ask for them.
    """
    return block.permuted(block.order, block.kv_order).output, block.output


@claim(
    "yang2024/coupled-permutation-channels",
    setting=Block,
    relation="==",
    source="yang2024, Sec. 3.1, Figure 3a",
    rescue=[Block.no_rotary],
    replaced_by="linnet/coupled-permutation",
)
def co_permuted_by_channels_of_a_head(block):
    r"""The same as `yang2024/coupled-permutation` by single channels, as Figure 3a draws the structures: the channels
    of each head in one order in $Q, K, V$ and $O$. The paper takes LLaMA as its example, whose queries and keys have
    rotary embeddings.
    """
    return block.channels_permuted().output, block.output
