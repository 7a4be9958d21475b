"""Common interface of loaded scorer checkpoints of all libraries and families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn


@dataclass(frozen=True)
class Tokens:
    """Tokenised captions; indexing with a slice or a list of positions selects some of them."""

    inputs: dict[str, Tensor]
    """Tensors by the model's argument, (n, T), on the CPU."""
    truncated: NDArray[np.bool_]
    """(n,): whether the caption has more tokens than the model reads."""

    def __len__(self) -> int:
        return len(self.truncated)

    def __getitem__(self, rows: slice | list[int]) -> Tokens:
        return Tokens({name: values[rows] for name, values in self.inputs.items()}, self.truncated[rows])


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A loaded checkpoint that maps images and captions to embeddings in one space."""

    image: Callable[[Image], Tensor]
    """Converts an RGB image to uint8 (H, W, 3) if there are ``levels``, else to a float32 tensor of fixed shape."""
    levels: Tensor | None
    """(3, 256) float32 on the device: the model's input value for each grey level of each channel; or None."""
    tokens: Callable[[Sequence[str]], Tokens]
    """Tokenises captions; safe to call from one thread besides the model's."""
    image_features: Callable[[Tensor], Tensor]
    """(B, 3, H, W), or stacked results of ``image`` if there are no ``levels``, to (B, D)."""
    text_features: Callable[[dict[str, Tensor]], Tensor]
    """Model inputs on the device to (B, D)."""
    parameters: int
    image_layers: Sequence[nn.Module] = ()
    """Layers of the image tower that ``compiled`` compiles; the text tower is excluded, as its lengths vary."""
    patches: nn.Conv2d | None = None
    """The convolution that makes patches, if its windows do not overlap; else None."""
    can_record: bool = True
    """Whether ``image_features`` launches equal kernels for equal batch sizes, so that a CUDA graph can replay it."""


def patch_convolution(convolution: object) -> nn.Conv2d | None:
    """Return a convolution that ``as_product`` can replace; None for other layers."""
    from torch.nn import Conv2d

    if (
        not isinstance(convolution, Conv2d)
        or convolution.groups != 1
        or convolution.padding not in (0, (0, 0), "valid")
    ):
        return None
    side = convolution.kernel_size[0]
    return convolution if convolution.kernel_size == convolution.stride == (side, side) else None


def as_product(convolution: nn.Conv2d) -> None:
    """Run a convolution with non-overlapping windows as a matrix product, which is several times faster."""
    from torch.nn.functional import linear

    side = convolution.kernel_size[0]
    assert convolution.kernel_size == convolution.stride == (side, side)

    def forward(pixels: Tensor) -> Tensor:
        # A convolution ignores borders that are narrower than a window.
        pixels = pixels[..., : pixels.shape[2] // side * side, : pixels.shape[3] // side * side]
        windows = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (B, 3, h, side, w, side)
        rows, columns = windows.shape[2], windows.shape[4]
        patches = windows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        product = linear(patches, convolution.weight.flatten(1), convolution.bias)
        return product.transpose(1, 2).unflatten(2, (rows, columns))

    convolution.forward = forward  # type: ignore[method-assign, assignment]
