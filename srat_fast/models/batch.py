"""What a loss reads: images, labels, and a classifier's outputs on them, computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Gather(Protocol):
    """What several processes (torchrun) do with the rows of a batch."""

    def __call__(self, own: Tensor) -> Tensor:
        """One process's share -> the whole batch."""

    def own(self, whole: Tensor) -> Tensor:
        """The whole batch -> this process's share."""


class Batch:
    """Images and labels with logits and features, which cost a forward pass only where a loss reads them.

    Args:
        model: classifier with `features`, `classify` and `separable`; None with `forward`.
        images: [B, C, H, W] in [0, 1] that the loss is taken on: adversarial ones, or an attack's present iterate.
        labels: [B].
        clean: the images before the attack; None where the loss does not read them.
        last_right: what `attack.stop = both` has beside `images`, x_c; None without.
        half: whether forward passes run under bfloat16 autocast.
        forward: images -> logits in one, in place of `features` and `classify`: of an attack whose loss reads no more.
        objective: what training minimises, for inner losses that climb it.
        gather: with several processes (torchrun), share -> whole batch; images and clean images are then this process's
            share, `labels` and all that a loss reads the whole batch's.
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
        gather: Gather | None = None,
    ) -> None:
        self._model, self.labels, self.objective = model, labels, objective
        self._clean, self._half, self._forward = clean, half, forward
        self._whole = gather or _same
        self._embedded_clean: Tensor | None = None
        self._last_right = last_right
        self._last_right_logits: Tensor | None = None
        self._clean_features: Tensor | None = None
        self._clean_logits: Tensor | None = None
        self._clean_probabilities: Tensor | None = None
        self.move(images)

    def move(self, images: Tensor) -> None:
        """Go on to other images of the same labels and clean images, as an attack does at each step."""
        self._images = images
        self._embedded: Tensor | None = None
        self._own_logits: Tensor | None = None
        self._features: Tensor | None = None
        self._logits: Tensor | None = None
        self._separable: Tensor | None = None

    @property
    def model(self) -> Any:
        """The classifier.

        Raises:
            RuntimeError: the inner loss that reads it, features or separable rows has not declared `features = True`.
        """
        if self._forward is not None:
            raise RuntimeError(
                "an attack keeps logits only; an inner loss that declares `features = True` has features, separable "
                "rows and the model too"
            )
        return self._model

    @property
    def images(self) -> Tensor:
        """What the loss is taken on, [B, C, H, W]."""
        return self._whole(self._images)

    @property
    def clean(self) -> Tensor:
        """The images before the attack, [B, C, H, W].

        Raises:
            RuntimeError: the loss that reads them has not declared `clean = True`.
        """
        return self._whole(self._own_clean())

    @property
    def features(self) -> Tensor:
        """Penultimate features of `images`, [B, D]."""
        if self._features is None:
            self._features = self._whole(self._own_features())
        return self._features

    @property
    def logits(self) -> Tensor:
        """Logits of `images`, [B, classes]."""
        if self._logits is None:
            self._logits = self._whole(self.own_logits)
        return self._logits

    @property
    def separable(self) -> Tensor:
        """z of Eq. 6 of `images`: unit rows, [B, D']."""
        if self._separable is None:
            self._separable = self._whole(self.model.separable(self._own_features()))
        return self._separable

    @property
    def clean_features(self) -> Tensor:
        """Penultimate features of `clean`, [B, D]."""
        if self._clean_features is None:
            self._clean_features = self._whole(self._own_clean_features())
        return self._clean_features

    @property
    def clean_logits(self) -> Tensor:
        """Logits of `clean`, [B, classes]."""
        if self._clean_logits is None:
            self._clean_logits = self._whole(
                self.model.classify(self._own_clean_features())
                if self._forward is None
                else self._forward(self._own_clean())
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
    def pair(self) -> bool:
        """Whether there is `last_right`."""
        return self._last_right is not None

    @property
    def last_right(self) -> Tensor | None:
        """The images themselves, [B, C, H, W]."""
        return None if self._last_right is None else self._whole(self._last_right)

    @property
    def last_right_logits(self) -> Tensor:
        """Logits of `last_right`, [B, classes]."""
        if self._last_right_logits is None:
            assert self._last_right is not None, "the recipe's own check"
            self._last_right_logits = self._whole(self.model.classify(self._embed(self._last_right)))
        return self._last_right_logits

    def branch_logits(self, branch: str) -> Tensor:
        """Logits of the images that L_cls reads by `loss.branch`."""
        if branch == "clean":
            return self.clean_logits
        return self.last_right_logits if branch == "last-right" else self.logits

    @property
    def own_logits(self) -> Tensor:
        """Logits of this process's images, [B', classes]."""
        if self._own_logits is None:
            self._own_logits = (
                self.model.classify(self._own_features())
                if self._forward is None
                else self._forward(self._images)
            )
        return self._own_logits

    def _own_clean(self) -> Tensor:
        if self._clean is None:
            raise RuntimeError("the clean images are kept for a loss that declares `clean = True` only")
        return self._clean

    def _own_features(self) -> Tensor:
        """Features of this process's images; of all of them where there is one process."""
        if self._embedded is None:
            self._embedded = self._embed(self._images)
        return self._embedded

    def _own_clean_features(self) -> Tensor:
        if self._embedded_clean is None:
            self._embedded_clean = self._embed(self._own_clean())
        return self._embedded_clean

    def _embed(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
            return self.model.features(images)


def _same(own: Tensor) -> Tensor:
    """The whole batch of a single process."""
    return own
