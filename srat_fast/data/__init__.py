"""Data: sources (download, decode, cache) -> imbalance (pure) -> split -> loader."""
