"""What a scorer's checkpoint gives, whichever library and family it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tokens:
    """Captions as a model reads them; a slice or a list of positions gives some of them."""

    inputs: dict[str, Any]
    """By the model's argument, (n, T), on the CPU."""
    truncated: NDArray[np.bool_]
    """(n,): the caption has more tokens than the model reads."""

    def __len__(self) -> int:
        return len(self.truncated)

    def __getitem__(self, rows: slice | list[int]) -> Tokens:
        return Tokens({name: values[rows] for name, values in self.inputs.items()}, self.truncated[rows])


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A loaded checkpoint: images and captions to embeddings in one space."""

    image: Callable[[Any], Any]
    """RGB image to uint8 tensor (H, W, 3) where there are ``levels``, else to a float32 tensor of one shape."""
    levels: Any
    """(3, 256) float32 on the device: what each grey level of each channel is to the model; or None."""
    tokens: Callable[[Sequence[str]], Tokens]
    """Safe to call from one other thread than the model's."""
    image_features: Callable[[Any], Any]
    """(B, 3, H, W), or stacked results of ``image`` where there are no ``levels``, to (B, D)."""
    text_features: Callable[[dict[str, Any]], Any]
    """Model inputs on the device to (B, D)."""
    parameters: int
    image_layers: Sequence[Any] = ()
    """Layers of the image tower that ``compiled`` compiles. Captions have another length in each batch."""
    patches: Any = None
    """The convolution that cuts an image up, where its windows do not overlap; else None."""
    can_record: bool = True
    """Whether ``image_features`` does the same for every batch of a size, so that a CUDA graph can replay it."""


def patch_convolution(convolution: Any) -> Any:
    """A convolution that ``as_product`` can replace; None for any other layer."""
    from torch.nn import Conv2d

    if (
        not isinstance(convolution, Conv2d)
        or convolution.groups != 1
        or convolution.padding not in (0, (0, 0), "valid")
    ):
        return None
    side = convolution.kernel_size[0]
    return convolution if convolution.kernel_size == convolution.stride == (side, side) else None


def as_product(convolution: Any) -> None:
    """Let a convolution whose windows do not overlap run as a matrix product, which takes a fraction of the time."""
    from torch.nn.functional import linear

    side = convolution.kernel_size[0]
    assert convolution.kernel_size == convolution.stride == (side, side)

    def forward(pixels: Any) -> Any:
        # A convolution leaves out what is too narrow for a window.
        pixels = pixels[..., : pixels.shape[2] // side * side, : pixels.shape[3] // side * side]
        windows = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (B, 3, h, side, w, side)
        rows, columns = windows.shape[2], windows.shape[4]
        patches = windows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        made = linear(patches, convolution.weight.flatten(1), convolution.bias)
        return made.transpose(1, 2).unflatten(2, (rows, columns))

    convolution.forward = forward
