"""What the free sizes of a file's inputs are: those of the shapes that are asked for; else a free batch size is 1."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from compress.errors import InputError


def free_sizes(
    inputs: Mapping[str, Sequence[Hashable]], shapes: Sequence[Sequence[int]], notes: list[str]
) -> dict[Hashable, int]:
    """The number behind each free size of `inputs` (their shapes by name, free sizes as symbols).

    Args:
        inputs: the shape of each input; a size that is no int is free.
        shapes: what is asked for, one shape for each input, or none.
        notes: what had to be assumed is added here.

    Raises:
        InputError: the shapes do not fit, or a free size that is no batch size is not among them.
    """
    if shapes and len(shapes) != len(inputs):
        raise InputError(f"--input: the model has {len(inputs)} inputs ({', '.join(inputs)}), {len(shapes)} are given")
    if shapes:
        return _as_asked(inputs, shapes)
    batches: dict[Hashable, int] = {}
    for name, shape in inputs.items():
        if shape and not isinstance(shape[0], int):
            batches[shape[0]] = 1
            notes.append(f"the batch size of input '{name}' is free and taken as 1")
    for name, shape in inputs.items():
        if any(not isinstance(size, int) and size not in batches for size in shape):
            written, example = ("x".join(map(str, part)) for part in (shape, _example(shape)))
            raise InputError(
                f"input '{name}' has free sizes ({written}): name each input's shape with --input, such as {example}"
            )
    return batches


def _example(shape: Sequence[Hashable]) -> list[int]:
    """The shape with usual numbers for its free sizes: one image of 224 pixels a side, one text of 128 tokens."""
    usual = 224 if len(shape) > 3 else 128
    return [size if isinstance(size, int) else usual if axis else 1 for axis, size in enumerate(shape)]


def _as_asked(inputs: Mapping[str, Sequence[Hashable]], shapes: Sequence[Sequence[int]]) -> dict[Hashable, int]:
    """The free sizes that make the inputs have these shapes; raises InputError where they cannot."""
    found: dict[Hashable, int] = {}
    for (name, shape), asked in zip(inputs.items(), shapes, strict=True):
        fits = len(shape) == len(asked) and all(
            size == want if isinstance(size, int) else found.setdefault(size, want) == want
            for size, want in zip(shape, asked, strict=True)
        )
        if not fits:
            written, other = "x".join(map(str, shape)), "x".join(map(str, asked))
            raise InputError(f"--input {other}: input '{name}' of the model is {written}")
    return found
