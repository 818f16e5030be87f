"""What a loss reads: images, labels, and a classifier's outputs on them, computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Batch:
    """Images and labels with logits and features, which cost a forward pass only where a loss reads them.

    Args:
        model: classifier with `features`, `classify` and `separable`.
        images: [B, C, H, W] in [0, 1] that the loss is taken on: adversarial ones, or an attack's present iterate.
        labels: [B].
        clean: the images before the attack; None where the loss does not read them.
        last_right: what `attack.stop = both` has beside `images`, x_c; None without.
        half: whether forward passes run under bfloat16 autocast.
        forward: images -> logits in one, in place of `features` and `classify` (an attack's compiled forward).
        objective: what training minimises, for inner losses that climb it.
    """

    def __init__(
        self,
        model: Any,
        images: Tensor,
        labels: Tensor,
        clean: Tensor | None = None,
        last_right: Tensor | None = None,
        *,
        half: bool = False,
        forward: Callable[[Tensor], Tensor] | None = None,
        objective: Any = None,
    ) -> None:
        self.model, self.labels, self.objective = model, labels, objective
        self._clean, self._half, self._forward = clean, half, forward
        #: the images themselves, [B, C, H, W]
        self.last_right = last_right
        self._last_right_logits: Tensor | None = None
        self._clean_features: Tensor | None = None
        self._clean_logits: Tensor | None = None
        self._clean_probabilities: Tensor | None = None
        self.move(images)

    def move(self, images: Tensor) -> None:
        """Go on to other images of the same labels and clean images, as an attack does at each step."""
        self.images = images
        self._features: Tensor | None = None
        self._logits: Tensor | None = None
        self._separable: Tensor | None = None

    @property
    def clean(self) -> Tensor:
        """The images before the attack, [B, C, H, W].

        Raises:
            RuntimeError: the loss that reads them has not declared `clean = True`.
        """
        if self._clean is None:
            raise RuntimeError("the clean images are kept for a loss that declares `clean = True` only")
        return self._clean

    @property
    def features(self) -> Tensor:
        """Penultimate features of `images`, [B, D]."""
        if self._features is None:
            self._features = self._embed(self.images)
        return self._features

    @property
    def logits(self) -> Tensor:
        """Logits of `images`, [B, classes]."""
        if self._logits is None:
            self._logits = (
                self.model.classify(self.features) if self._forward is None else self._forward(self.images)
            )
        return self._logits

    @property
    def separable(self) -> Tensor:
        """z of Eq. 6 of `images`: unit rows, [B, D']."""
        if self._separable is None:
            self._separable = self.model.separable(self.features)
        return self._separable

    @property
    def clean_features(self) -> Tensor:
        """Penultimate features of `clean`, [B, D]."""
        if self._clean_features is None:
            self._clean_features = self._embed(self.clean)
        return self._clean_features

    @property
    def clean_logits(self) -> Tensor:
        """Logits of `clean`, [B, classes]."""
        if self._clean_logits is None:
            self._clean_logits = (
                self.model.classify(self.clean_features)
                if self._forward is None
                else self._forward(self.clean)
            )
        return self._clean_logits

    @property
    def clean_probabilities(self) -> Tensor:
        """Softmax of `clean_logits` without gradient, [B, classes]; an attack computes it once."""
        if (
            self._clean_probabilities is None
        ):  # detached, not no_grad: another term may want the logits' gradient
            self._clean_probabilities = self.clean_logits.detach().softmax(dim=1)
        return self._clean_probabilities

    @property
    def last_right_logits(self) -> Tensor:
        """Logits of `last_right`, [B, classes]."""
        if self._last_right_logits is None:
            assert self.last_right is not None, "the recipe's own check"
            self._last_right_logits = self.model.classify(self._embed(self.last_right))
        return self._last_right_logits

    def branch_logits(self, branch: str) -> Tensor:
        """Logits of the images that L_cls reads by `loss.branch`."""
        if branch == "clean":
            return self.clean_logits
        return self.last_right_logits if branch == "last-right" else self.logits

    def _embed(self, images: Tensor) -> Tensor:
        if self._forward is not None:
            raise RuntimeError("an attack computes logits only: its loss cannot read features")
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
            return self.model.features(images)
