"""Folders of pictures: every mode becomes RGB, what cannot be read is named, and splits follow names alone."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compress.errors import DataError, ToolMissing
from compress.tasks.folders import Found, NotUsable, Pieces, split_found, split_of
from compress.tasks.pairs import split_pairs
from compress.tasks.pictures import Tiling, read_picture, split_pictures

SHARES = (0.5, 0.25, 0.25)


def pixels(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def fill(folder: Path, count: int, height: int = 20, width: int = 30) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(height, width, number)).save(folder / f"{number:03}.png")
    return folder


def as_array(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy()


def test_an_rgb_picture_comes_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert found.dtype == torch.uint8 and np.array_equal(as_array(found), pixels())


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(pixels()).convert(mode)
    image.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert found.shape == (3, 20, 30) and np.array_equal(as_array(found), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cyan.tif")
    assert as_array(read_picture(tmp_path / "cyan.tif"))[0, 0].tolist() == [0, 255, 255]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 65535\n" + grey.astype(">u2").tobytes())
    for name in ("a.png", "a.tif", "a.pgm"):
        assert as_array(read_picture(tmp_path / name))[..., 1].tolist() == [[0, 0, 1], [128, 254, 255]]


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    image.save(tmp_path / "a.png")
    keyed = Image.new("P", (2, 1))
    keyed.putpalette([10, 20, 30, 40, 50, 60])
    keyed.putpixel((1, 0), 1)
    keyed.save(tmp_path / "b.png", transparency=1)
    for name in ("a.png", "b.png"):
        assert as_array(read_picture(tmp_path / name))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_turns_the_picture(tmp_path: Path, orientation: int, name: str) -> None:
    image = Image.new("RGB", (24, 16), "black")
    image.paste("white", (0, 0, 8, 8))  # the top left corner as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif)
    shape = (16, 24) if orientation in (1, 3) else (24, 16)
    found = read_picture(tmp_path / name)[0]
    assert tuple(found.shape) == shape
    corner = {1: (2, 2), 3: (-2, -2), 6: (2, -2), 8: (-2, 2)}[orientation]
    assert int(found[corner]) > 200 and int(found.float().mean()) < 70
    # The size that is known before decoding is that of the turned picture too.
    tiles = split_pictures([tmp_path / name] * 3, 8, shares=SHARES, at_least=0)
    light = [float(part[i].float().mean()) > 128 for part in tiles for i in range(len(part))]
    assert len(light) == 3 * 6 and sum(light) == 3


def test_tiles_cover_the_picture_and_do_not_overlap(tmp_path: Path) -> None:
    assert Tiling(8).places((20, 30)) == [(0, 0), (0, 11), (0, 22), (12, 0), (12, 11), (12, 22)]
    assert Tiling(8, most=1).places((20, 30)) == [(6, 11)]  # the middle
    assert len(Tiling(8, most=4).places((20, 30))) == 4
    assert Tiling(8, short_side=10).size((20, 30)) == (10, 15)
    with pytest.raises(NotUsable, match="30 x 20 pixels; 21 a side are needed"):
        Tiling(21).size((20, 30))
    with pytest.raises(NotUsable, match="40 a side"):
        Tiling(8, short_side=40).size((20, 30))
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    part = next(p for p in split_pictures([tmp_path / "a.png"], 8, at_least=0) if len(p))
    assert np.array_equal(as_array(part[4]), pixels()[12:20, 11:19])
    with pytest.raises(IndexError):
        part[6]


def test_a_short_side_shrinks_first(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 600)[None, :, None], (400, 600, 3)).astype(np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(smooth).save(tmp_path / name)
        found = read_picture(tmp_path / name, Tiling(20, short_side=20))
        assert found.shape == (3, 20, 30)
        assert np.abs(as_array(found)[10, :, 0] - np.linspace(4, 251, 30)).max() < 3


def test_what_cannot_be_used_is_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, 20)
    whole = (tmp_path / "000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(pixels(200, 200)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").write_text("not looked at")
    Image.fromarray(pixels(4, 90)).save(tmp_path / "flat.png")
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "float.tif")
    with caplog.at_level(logging.WARNING):
        train, validation, test = split_pictures(tmp_path, 16, shares=SHARES)
    reasons = {one.file.name: one.reason for one in train.skipped}
    assert sorted(reasons) == ["cut.jpg", "cut.png", "empty.png", "flat.png", "float.tif", "notes.txt"]
    assert "truncated" in reasons["cut.jpg"] and "truncated" in reasons["cut.png"]
    assert "not a picture" in reasons["notes.txt"] and "90 x 4 pixels" in reasons["flat.png"]
    assert "mode F" in reasons["float.tif"]
    assert "6 of 26 files are left out" in caplog.text and "cut.jpg" in caplog.text and "and more" in caplog.text
    assert len(train) + len(validation) + len(test) == 20


def test_splits_are_by_file_and_stay_when_files_come(tmp_path: Path) -> None:
    def where(folder: Path) -> dict[str, int]:
        return {one.key: i for i, part in enumerate(split_pictures(folder, 8, shares=SHARES)) for one in part.found}

    before = where(fill(tmp_path / "a", 24))
    after = where(fill(tmp_path / "a", 40))
    assert len(before) == 24 and len(after) == 40 and before.items() <= after.items()
    assert where(fill(tmp_path / "b", 24)) == before  # the folder's own name does not matter
    many = [Found(f"{i}", Path(), 1) for i in range(4000)]
    assert [len(part) / 4000 for part in split_found(many, (0.8, 0.1, 0.1))] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert split_of("any", (0.0, 0.0, 1.0)) == 2


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        split_pictures(tmp_path / "nowhere", 8)
    fill(tmp_path / "some", 2)
    (tmp_path / "some" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"some: the train split gets \d of 2 usable pictures, and needs 3.*bad.png"):
        split_pictures(tmp_path / "some", 8, at_least=3)


def test_kept_pieces_never_exceed_the_limit_and_change_nothing() -> None:
    reads: list[str] = []

    def read(file: Path) -> Tensor:
        reads.append(file.name)
        return torch.full((3, 10), float(file.name)).to(torch.uint8) + torch.arange(3, dtype=torch.uint8)[:, None]

    found = [Found(str(i), Path(str(i)), 3) for i in range(5)]
    roomy, tight = Pieces(found, read), Pieces(found, read, keep_bytes=70)  # two files of 30 bytes fit
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0)).tolist()
    for index in order:
        assert roomy[index].tolist() == [index // 3 + index % 3] * 10 == tight[index].tolist()
        assert tight._kept_bytes == sum(x.nbytes for x in tight._kept.values()) <= 70
    reads.clear()
    assert roomy[7].tolist() == [3] * 10 and reads == []
    last = order[-1]
    assert tight[last - last % 3].tolist() and reads == []
    nothing = Pieces(found, read, keep_bytes=0)
    assert nothing[14].tolist() == [6] * 10 and not nothing._kept


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    parts = split_pictures(fill(tmp_path, 3), 8, at_least=0)
    part = next(part for part in parts if len(part))
    part.found[0].file.unlink()
    with pytest.raises(DataError, match=f"{part.found[0].file.name} can no longer be read"):
        part[0]


def test_pairs_are_matched_by_name_and_the_lonely_are_named(tmp_path: Path) -> None:
    inputs, targets = fill(tmp_path / "in", 12), fill(tmp_path / "out", 12)
    (targets / "003.png").unlink()
    (inputs / "004.png").unlink()
    Image.fromarray(pixels(40, 30)).save(targets / "005.png")
    Image.fromarray(pixels(20, 30, 6)).save(targets / "006.bmp")  # another ending: the same picture
    (targets / "006.png").unlink()
    Image.fromarray(pixels(20, 30, 7)).save(inputs / "007.bmp")  # two of a name
    splits = split_pairs(inputs, targets, 8, shares=SHARES)
    reasons = {str(one.file.relative_to(tmp_path)): one.reason for one in splits[0][0].skipped}
    assert reasons == {
        "in/003.png": "no usable target is named 003",
        "out/004.png": "no usable input is named 004",
        "in/005.png": "its target 005.png has another size",
        "in/007.png": "007.bmp has the same name",
    }
    assert sum(len(first) for first, _ in splits) == 9 * 6
    for first, second in splits:
        assert len(first) == len(second)
        assert all(torch.equal(first[i], second[i]) for i in range(len(first)))  # both folders hold the same pixels


def test_without_pillow_the_message_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolMissing, match=r"Pillow.*pip install -e '.\[examples\]'"):
        split_pictures(tmp_path, 8)
