"""Losses: class weights and margins, and one objective built from a method's row on the `srat_kernels` ops."""
