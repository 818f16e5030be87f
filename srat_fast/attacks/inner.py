"""Inner losses: what an attack climbs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from srat_fast.models.batch import Batch
from srat_fast.registry import inner


@inner("ce")
def ce(batch: Batch) -> Tensor:
    """Unweighted cross-entropy on raw logits (method.md "inner maximisation").

    Args:
        batch: its logits [B, C] and labels [B].

    Returns:
        Scalar mean.
    """
    return functional.cross_entropy(batch.logits, batch.labels)


@inner("objective")
def objective(batch: Batch) -> Tensor:
    """w * L_cls of training, without LDAM's margin and scale: the inner maximisation of the paper's text.

    Args:
        batch: its `objective` and what that reads.

    Returns:
        Scalar.
    """
    return batch.objective.raw_classification(batch)


@inner("margin")
def margin(batch: Batch) -> Tensor:
    """The margin that PGD maximises as "CW" in the adversarial-training literature (Carlini and Wagner 2017, f_6).

    max_{j != y} logit_j - logit_y: positive where the image is already misclassified. Scaling the logits scales its
    gradient and leaves the gradient's direction as it is, which cannot be said of cross-entropy.

    Args:
        batch: its logits [B, C], C >= 2, and labels [B].

    Returns:
        Scalar mean.
    """
    own = batch.logits.gather(1, batch.labels[:, None]).squeeze(1)  # [B]
    others = batch.logits.scatter(1, batch.labels[:, None], float("-inf"))  # [B, C]
    return (others.amax(dim=1) - own).mean()


@inner("kl")
def kl(batch: Batch) -> Tensor:
    """KL(p(x) || p(x')) from the clean prediction to the attacked one, without labels (TRADES, Zhang et al. 2019).

    At the clean image its gradient is zero: it needs `attack.random_start`. p(x) is computed once an attack; where
    BatchNorm runs on batch statistics that pass updates and counts in the running ones as one more step does.

    Args:
        batch: its logits [B, C] and clean probabilities [B, C].

    Returns:
        Scalar mean.
    """
    clean = batch.clean_probabilities
    return functional.kl_div(batch.logits.log_softmax(dim=1), clean, reduction="batchmean")


#: reads the clean images, and has no gradient at them
kl.clean = True
#: means of one number an image: what the other images of a batch are does not change a gradient's direction
ce.per_image = margin.per_image = kl.per_image = True
