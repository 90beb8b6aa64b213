"""Background activation suppression: Eq. 3-6, 9 and 10 of "Background Activation Suppression for Weakly Supervised
Object Localization and Semantic Segmentation" (Zhai et al., IJCV 2023), in the segmentation setting of section 3.4.

Shapes: B images, C classes (without background), h w feature grid. A mask M_f (B,1,h,w) lies in [0,1]; class maps
(B,C,h,w) are F2's output and their mean over h,w are the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

Judge = Callable[[Tensor], Tensor]  # the frozen F2: masks (J,1,h,w) → logits (J,C) of the features times (1 - mask)
EPS = 1e-8  # Eq. 3's denominator; the paper prints "e^-8", its code adds 1e-8


def background_activation_suppression(score: Tensor, background_score: Tensor) -> Tensor:
    """Eq. 3 — L_bas = S_b / (S + eps) per image, S and S_b after ReLU (section 3.2).

    score, background_score: (B,) logits of the chosen class, of the features and of the features times (1 - M_f).
    The score is a constant here (no gradient). Where S_b exceeds S the loss is the constant 1: no gradient either.
    Returns (B,) values in [0,1].
    """
    activation = nnf.relu(score.detach())
    background = nnf.relu(background_score)
    ratio = background / (activation + EPS)
    return torch.where(background > activation, torch.ones_like(ratio), ratio)


def area_constraint(mask: Tensor, power: float = 1.0) -> Tensor:
    """Eq. 4 — L_ac = mean of the foreground mask, per image: (B,1,h,w) → (B,).

    POWER other than 1 is ours: a share of the image raised to less than 1 weighs the first pixels most, so that a small
    object is held tight and a large one costs little more (section 6 names objects of different sizes as open).
    """
    area = mask.mean(dim=(1, 2, 3))
    return area if power == 1 else (area + EPS) ** power


def foreground_region_guidance(class_maps: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
    """Eq. 5-6 — L_frg = cross-entropy of GAP(M_f · class maps) to the chosen class, per image.

    The class maps are constants here, as in the code behind the published numbers: L_frg teaches the mask's generator and
    F1 before it, and nothing of F2.
    class_maps (B,C,h,w), mask (B,1,h',w'), chosen (B,) class ids → (B,).
    """
    return nnf.cross_entropy(_pooled(class_maps, mask), chosen, reduction="none")


def _pooled(class_maps: Tensor, mask: Tensor) -> Tensor:
    """GAP(M_f · class maps), the mask brought to the grid of the class maps where its generator sits in a finer layer."""
    if mask.shape[2:] != class_maps.shape[2:]:
        mask = nnf.interpolate(mask, class_maps.shape[2:], mode="area")
    return (class_maps.detach() * mask).mean(dim=(2, 3))


def multi_label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 9 — L_mcls = sum over present classes i of the cross-entropy of i among {i} and the absent classes.

    logits (B,C); labels (B,C) of 0 and 1 → (B,). With z the logits, each term is log(e^z_i + sum_absent e^z_j) - z_i.
    """
    present = labels > 0
    absent = torch.logsumexp(logits.masked_fill(present, -torch.inf), dim=1, keepdim=True)
    terms = torch.logaddexp(logits, absent) - logits
    return torch.where(present, terms, torch.zeros_like(terms)).sum(dim=1)


@dataclass(frozen=True)
class Weights:
    """Eq. 10's weights: α of L_frg, β of L_ac, λ of L_bas."""

    alpha: float
    beta: float
    lam: float


def losses(
    class_maps: Tensor, mask: Tensor, background_logits: Tensor | None, labels: Tensor, chosen: Tensor, area_power: float = 1.0
) -> dict[str, Tensor]:
    """The four terms of Eq. 10, each a mean over the batch.

    class_maps (B,C,h,w); mask (B,1,h',w'), M_f of the chosen class; background_logits (B,C), logits of the features times
    (1 - M_f) through the frozen F2; labels (B,C); chosen (B,) class ids, one present class an image.
    Returns scalars named mcls, frg, ac, bas; without background_logits, no bas.
    """
    logits = class_maps.mean(dim=(2, 3))
    terms = {
        "mcls": multi_label_cross_entropy(logits, labels).mean(),
        "frg": foreground_region_guidance(class_maps, mask, chosen).mean(),
        "ac": area_constraint(mask, area_power).mean(),
    }
    if background_logits is None:
        return terms
    score, background = (x.gather(1, chosen[:, None])[:, 0] for x in (logits, background_logits))
    return terms | {"bas": background_activation_suppression(score, background).mean()}


def agnostic_losses(
    class_maps: Tensor, mask: Tensor, background_logits: Tensor | None, labels: Tensor, per_class: bool, area_power: float = 1.0
) -> dict[str, Tensor]:
    """Terms of the class-agnostic foreground map (section 5.5), each a mean over the batch: fg_frg, fg_ac, fg_bas (without
    background_logits, no fg_bas).

    The sum of L_bas over all present classes with that one map is the paper's. The other two are ours: the guidance is
    Eq. 9 on GAP(map · class maps); the area counts once a present class (PER_CLASS), as the sum of L_bas does, or once.
    class_maps (B,C,h,w); mask (B,1,h',w'); background_logits (B,C), of the features times (1 - mask); labels (B,C).
    """
    present = (labels > 0).float()
    times = present.sum(1) if per_class else 1.0
    terms = {
        "fg_frg": multi_label_cross_entropy(_pooled(class_maps, mask), labels).mean(),
        "fg_ac": (area_constraint(mask, area_power) * times).mean(),
    }
    if background_logits is None:
        return terms
    suppression = background_activation_suppression(class_maps.mean(dim=(2, 3)), background_logits)
    return terms | {"fg_bas": (suppression * present).sum(1).mean()}


def total(terms: dict[str, Tensor], weights: Weights) -> Tensor:
    """Eq. 10 — L = L_mcls + α L_frg + β L_ac + λ L_bas, and the same three of the class-agnostic map where it is there."""
    factors = {"mcls": 1.0, "frg": weights.alpha, "ac": weights.beta, "bas": weights.lam}
    return torch.stack([factors[name.removeprefix("fg_")] * value for name, value in terms.items()]).sum()


def draw_classes(labels: Tensor, generator: torch.Generator) -> Tensor:
    """One present class an image, uniformly (section 3.4: "randomly selecting a foreground category").

    labels (B,C) on the CPU, each row with a present class → (B,) class ids.
    """
    return torch.multinomial(labels.float(), 1, generator=generator)[:, 0]
