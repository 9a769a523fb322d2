"""Real tasks: their texts, how a model is asked, and how it is misled."""
