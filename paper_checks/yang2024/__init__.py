"""yang2024: "S2FT", Yang et al., NeurIPS 2024."""
