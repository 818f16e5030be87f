"""Networks by name, the classifier around them, and its files."""

from srat_fast.registry import model

model.declare("srat_fast.models.resnet", "resnet18", "resnet34", "resnet50")
model.declare("srat_fast.models.preact", "preactresnet18", "wrn-28-10", "wrn-34-10", "wrn-70-16")
model.declare("srat_fast.models.timm_networks", "timm:<name>")
