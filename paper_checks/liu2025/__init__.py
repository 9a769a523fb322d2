"""liu2025: "Look Within or Look Beyond?", Liu et al. 2025."""
