"""Networks by name, the classifier around them, and its files."""

from srat_fast.registry import model

model.declare("srat_fast.models.resnet", "resnet18")
