"""The stem of images: patches, with the tokens that are not patches and with positions."""

from __future__ import annotations

from typing import Any

from ..checks import check_choice, check_fraction, check_whole
from ..errors import InputError, shown
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site, Spread
from .base import Child, Run, component
from .norms import Norm
from .stem import Stem
from .tensor import DRAW, FIXED, ZEROS, Tensor

PATCH_POSITIONS = ("learned", "fixed", "none")
"""The positions of a :class:`PatchStem`: a trained vector for each token, stored sines and cosines of the two coordinates of a
patch, or none."""


@component
class PatchStem(Stem):
    """Square patches of an image, each mapped linearly to a token, with a class token and learned positions.

    Dosovitskiy et al. 2020, arXiv 2010.11929. DeiT (arXiv 2012.12877) has a second token, which a teacher trains, CLIP
    (arXiv 2103.00020) a norm after the positions, and SigLIP (arXiv 2303.15343) no class token. BEiT (arXiv 2106.08254) has no
    positions here.
    """

    height: int
    width_pixels: int
    patch: int
    channels: int
    width: int
    class_token: bool = True
    bias: bool = True
    dropout: float = 0.0
    distillation_token: bool = False
    """True if a second token, after the class token, is trained by a teacher (DeiT)."""
    mask_token: bool = False
    """True if it holds the vector that takes the place of hidden patches in pre-training; no other pass reads it."""
    positions: str = "learned"
    """One of :data:`PATCH_POSITIONS`."""
    norm: Norm | None = None
    kept: int | None = None
    """Patches that are left when the others are hidden, drawn again for each image; None for all (MAE, arXiv 2111.06377)."""
    embedding = True
    images = True

    def __post_init__(self) -> None:
        check_whole("PatchStem", height=self.height, width_pixels=self.width_pixels, patch=self.patch)
        check_whole("PatchStem", channels=self.channels, width=self.width)
        check_fraction("PatchStem", dropout=self.dropout)
        check_choice("PatchStem", PATCH_POSITIONS, positions=self.positions)
        if self.patch > min(self.height, self.width_pixels):
            raise InputError(f"PatchStem: patch={shown(self.patch)} is larger than the image")
        if self.kept is not None and not 0 <= self.kept <= self.patches:
            raise InputError(f"PatchStem: kept={shown(self.kept)} is not a number of its {self.patches} patches")
        if self.positions == "fixed" and self.width % 4:
            raise InputError(
                f"PatchStem: width={shown(self.width)} is not a multiple of 4, which sines and cosines of a grid need"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of one image along its height and along its width."""
        return self.height // self.patch, self.width_pixels // self.patch

    @property
    def patches(self) -> int:
        """Number of patches of one image."""
        rows, columns = self.grid
        return rows * columns

    @property
    def context(self) -> int:
        """Number of tokens of one image that the blocks read, those that are not patches included."""
        return self.places - (0 if self.kept is None else self.patches - self.kept)

    @property
    def places(self) -> int:
        """Number of tokens of one image before patches are hidden."""
        return self.patches + self.class_token + self.distillation_token

    @property
    def fixed_context(self) -> int:
        return self.context

    @property
    def vocab(self) -> int:
        """0, as it reads images."""
        return 0

    @property
    def learned_positions(self) -> bool:
        return self.positions == "learned"

    @property
    def summed_tables(self) -> int:
        return 1 + self.learned_positions  # the patches' own map and their positions

    @property
    def fixed_variance(self) -> float:
        return 0.5 if self.positions == "fixed" else 0.0

    def choices(self) -> dict[str, Any]:
        return {
            "patch": self.patch,
            "image": (self.height, self.width_pixels),
            "channels": self.channels,
            "embedding_dropout": self.dropout,
            "class_token": self.class_token,
            "distillation_token": self.distillation_token,
            "mask_token": self.mask_token,
            "patch_bias": self.bias,
            "patch_positions": self.positions,
            "kept_patches": self.kept,
            "embedding_norm": self.norm is not None,
        }

    def children(self) -> tuple[Child, ...]:
        return () if self.norm is None else (Child("norm", self.norm),)

    def degree(self, x: Powers, at: Place) -> Powers:
        x = at.apply("linear", x, own=at.weight("patch.weight"))
        if self.bias:
            x = at.apply("bias", x, own=at.weight("patch.bias"), reason="a bias is added to patches of another degree")
        for name in ("class_token", "distillation_token"):
            if getattr(self, name):
                x = at.apply("sum", x, at.weight(name), reason="a trained token is joined to patches of another degree")
        if self.positions != "none":
            x = at.apply("sum", x, at.weight("positions"), reason="vectors of positions are added to patches of another degree")
        return x if self.norm is None else at.at("norm").through(self.norm, x)

    def embed(self, site: Site, identity: AnySignal, segment_match: float) -> tuple[Any, Pullback]:
        if self.positions == "fixed":
            raise InputError(f"{site.role}: the moments of fixed positions on a grid are not known")
        # Patches of unit variance, with the correlation of `identity`, and positions.
        pixels = self.channels * self.patch**2
        x = identity.times(pixels * site.variance("patch.weight") + (site.variance("patch.bias") if self.bias else 0.0))
        if self.learned_positions:
            x = x.plus(identity.times(site.variance("positions"), 0.0))
        pull_norm: Pullback = _same_gradient
        if site.trace.finite_width:
            x = x.spread_as(Spread.of_gaussian(x, self.width))
        if self.norm is not None:
            before = x
            x, pull_norm = self.norm.moments(before, site.at("norm"))
            x = x.spread_as(before.spread and before.spread.after_norm(before, x))
        rate = self.dropout if site.trace.dropout else 0.0
        site.record(x := x.after_dropout(rate).spread_as(x.spread))
        return x, site.record_gradient(lambda g: pull_norm(g.after_dropout(rate)))

    def tensors(self) -> dict[str, Tensor]:
        kernel = (self.width, self.channels, self.patch, self.patch)
        weights = {"patch.weight": Tensor(kernel, "patch", self.channels * self.patch**2, self.width)}
        if self.bias:
            weights["patch.bias"] = Tensor((self.width,), "bias", start=ZEROS)
        for name in ("class_token", "distillation_token"):
            if getattr(self, name):
                weights[name] = Tensor((1, 1, self.width), "class_token")
        if self.mask_token:
            weights["mask_token"] = Tensor((1, 1, self.width), "class_token", start=ZEROS)
        if self.positions != "none":
            start = DRAW if self.learned_positions else FIXED
            weights["positions"] = Tensor((1, self.places, self.width), "positions", start=start)
        return weights

    def own_flops(self, run: Run) -> int:
        return 2 * run.batch * self.patches * self.channels * self.patch**2 * self.width

    def own_saved(self, run: Run) -> int:
        pixels = run.batch * self.channels * self.height * self.width_pixels * run.value_bytes
        return pixels + (run.positions * self.width if self.dropout else 0)


def _same_gradient(g: AnySignal) -> AnySignal:
    return g
