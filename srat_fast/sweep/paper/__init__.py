"""The paper's tables and figures as sweep specs (TOML files beside this one), and its numbers."""
