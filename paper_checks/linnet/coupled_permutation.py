"""linnet/coupled-permutation: in place of yang2024, Sec. 3.1. Proof: docs/proofs/coupled-permutation.md."""

from linnet.trials import Block, Comparison, claim


@claim(
    "linnet/coupled-permutation",
    setting=Block,
    relation="==",
    proof="docs/proofs/coupled-permutation.md",
    hypotheses=[Block.whole_groups, Block.invertible_maps],
)
def what_leaves_a_block_as_it_is(block):
    r"""The output of a block does not change, one by one and together, when

    - groups of query heads move as wholes, with their key-value head, and query heads within their group, with $O$;
    - $V_g \to S V_g$, $O_h \to O_h S^{-1}$ for all $h$ in group $g$, $S$ any invertible matrix, such as a permutation
      of channels;
    - $Q_h \to A Q_h$, $K_g \to A^{-\top} K_g$ for all $h$ in group $g$, $A$ the same; with rotary embedding it must
      commute with its rotations: planes may be turned and scaled, and mixed if of equal frequency; single channels
      may not move;
    - channels of a feed-forward block move, in up, gate and down; up is scaled and down divided by any number if
      gated; ReLU scaled by a positive one.
    """
    mapped = block.mapped()
    same = [block.permuted(block.order, block.kv_order), mapped, mapped.permuted(block.order, block.kv_order)]
    same += [block.channels_permuted("VO")] + ([] if block.rotary else [block.channels_permuted("QK")])
    return [Comparison(b.output, "==", block.output, scale=block.scale + b.scale) for b in same]
