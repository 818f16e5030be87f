"""A plug-in: a loss, a network and a method. srat-fast train --plugin own_method.py --method poly1-srat ..."""

from torch import nn
from torch.nn import functional

from srat_fast.methods import SEPARATION, Method
from srat_fast.registry import method, model, term


@term("poly1")
class Poly1:
    """Cross-entropy + 1 - p (Leng et al. 2022, Poly-1 with epsilon = 1)."""

    def __init__(self, context):
        self.context = context

    def __call__(self, batch):
        """The weighted mean over the batch."""
        losses = functional.cross_entropy(batch.logits, batch.labels, reduction="none")
        return self.context.mean(losses + 1 - (-losses).exp(), batch.labels)


@model("plain")
class Plain(nn.Module):
    """Three convolutions; the classifier averages their map and adds normalisation and head."""

    def __init__(self, channels, width):
        super().__init__()
        layers, self.feature_dim = [], 4 * width
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def features(self, images):
        """[B, channels, H, W] -> [B, 4 width, H / 8, W / 8]."""
        return self.layers(images)


method("poly1-srat")(Method("poly1-srat", "poly1", "deferred", SEPARATION, title="Poly1-SRAT"))
