"""What stands in the place of claims that fail: true, tried like the rest, with proofs in docs/proofs."""
