"""Photographs from Debian packages, fetched on first use: what the examples without labels learn from.

Wallpapers: lomiri-wallpapers-16.04, mate-backgrounds and plasma-workspace-wallpapers (41 landscapes, details and
buildings). Animals, tools, instruments, monuments: the 281 photographs among the drawings of gcompris-qt-data, a set of
children's games. Each has its own free licence (CC-BY, CC-BY-SA, public domain and others): see the packages'
copyright files. None is part of this project.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from examples.fetch import debian_package
from examples.qt_resources import files_inside

WALLPAPERS = ("lomiri-wallpapers-16.04", "mate-backgrounds", "plasma-workspace-wallpapers")
NOT_PHOTOGRAPHS = (
    "desktop", "abstract", "Konqui", "icons", "_dark", "screenshot", "Altai", "Flow/", "Volna", "Kay", "IceCold",
    "Opal", "Patak", "Shell", "Cluster", "SafeLanding", "Kokkini", "Honeywave", "Elarun", "MilkyWay", "PastelHills",
)  # fmt: skip

GAMES = "gcompris-qt-data"
GAME_PHOTOGRAPHS = re.compile(
    r"activities/(categorization/resource/images/(?!alphabets|numbers)"
    r"|erase/resource/|explore_monuments/resource/|explore_world_animals/resource/animals/"
    r"|explore_farm_animals/resource/animals/|explore_world_music/resource/music/|clickgame/resource/sea"
    r"|details/resource/image/(?!.*(Gogh|Eglise|Pere)).*_background"
    r"|louis-braille/resource/(?!.*(chart|louis\.|night)))"
)


def wallpapers(folders: Iterable[Path] | None = None) -> list[Path]:
    """One file for each photograph (the largest of its sizes), in a fixed order; drawings are left out by name."""
    largest: dict[str, Path] = {}
    for folder in folders or [debian_package(name) for name in WALLPAPERS]:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() not in (".jpg", ".png") or any(word in str(file) for word in NOT_PHOTOGRAPHS):
                continue
            name = file.parents[2].name if file.parent.name.startswith("images") else file.stem
            if name not in largest or file.stat().st_size > largest[name].stat().st_size:
                largest[name] = file
    return [largest[name] for name in sorted(largest)]


def game_photographs(folder: Path | None = None) -> Iterator[tuple[str, Image.Image]]:
    """The name and picture of each photograph in the games, every one once, in a fixed order."""
    seen = set()
    for resource_file in sorted((folder or debian_package(GAMES)).rglob("*.rcc")):
        for path, content in files_inside(resource_file):
            digest = hashlib.sha256(content).digest()
            if Path(path).suffix in (".webp", ".png", ".jpg") and GAME_PHOTOGRAPHS.search(path) and digest not in seen:
                seen.add(digest)
                yield Path(path).stem, Image.open(io.BytesIO(content))
