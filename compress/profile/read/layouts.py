"""Which tensors are images in a file that holds images with their channels last: their shapes are read channels second.

A tensor of four axes may as well be the heads of an attention, or an image that a transpose has put channels first.
What a window slides over is an image, and so is what is computed from one value by value.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


class Images:
    """Tensors by any name, tied where they have the same layout."""

    def __init__(self) -> None:
        self._up: dict[Hashable, Hashable] = {}
        self._images: set[Hashable] = set()

    def tie(self, tensors: Iterable[Hashable]) -> None:
        """Notes that these tensors have one layout."""
        roots = list(dict.fromkeys(self._root(tensor) for tensor in tensors))
        self._up |= dict.fromkeys(roots[1:], roots[0]) if roots else {}

    def mark(self, tensors: Iterable[Hashable]) -> None:
        """Notes that these tensors are images."""
        self._images |= set(tensors)

    def settle(self) -> None:
        """Spreads what was noted over all that is tied; to be called once, before shapes are asked for."""
        self._images = {self._root(tensor) for tensor in self._images}

    def reordered(self, given: Hashable, output: Hashable, order: Sequence[int]) -> bool:
        """Whether a transpose to `order` only puts an image's channels first or last for what reads it."""
        one = (self._root(given) in self._images) != (self._root(output) in self._images)
        return one and tuple(order) in ((0, 2, 3, 1), (0, 3, 1, 2))

    def shape(self, tensor: Hashable, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of a tensor, channels second where it is an image."""
        if len(sizes) == 4 and self._root(tensor) in self._images:
            return (sizes[0], sizes[3], sizes[1], sizes[2])
        return sizes

    def _root(self, tensor: Hashable) -> Hashable:
        path = [tensor]
        while path[-1] in self._up:
            path.append(self._up[path[-1]])
        for each in path[:-1]:
            self._up[each] = path[-1]
        return path[-1]
