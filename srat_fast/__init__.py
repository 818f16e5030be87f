"""SRAT and its baselines on imbalanced data: recipes in, trained and evaluated models out."""
