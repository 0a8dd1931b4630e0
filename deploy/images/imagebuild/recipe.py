"""What can be built: a name, a Dockerfile, build arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localcluster.settings import REGISTRY_HOST

NAMES = ("engine", "operator")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image to build. Arguments that are absent keep the Dockerfile's default."""

    name: str
    arguments: Mapping[str, str]

    @property
    def dockerfile(self) -> str:
        """The file, relative to the repository."""
        return f"Dockerfile.{self.name}"

    @property
    def repository(self) -> str:
        """The image's name without its tag."""
        return f"{REGISTRY_HOST}/headway-{self.name}"


def recipe(name: str, device: str, base_image: str | None) -> Recipe:
    """The recipe of one of `NAMES`. Only the engine differs by device."""
    arguments = {"DEVICE": device} if name == "engine" else {}
    return Recipe(name, arguments | ({"BASE_IMAGE": base_image} if base_image else {}))
