"""`spec.model`: where the weights, the tokenizer and the configuration come from.

Every source is local to the pod: the engine fetches nothing. A path names a Hugging Face directory (config.json,
tokenizer, safetensors) or one `.gguf` file, which carries its own tokenizer and configuration.
"""

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from headway_operator.api.base import AbsolutePath, ApiModel, RelativePath, Rule


class PullPolicy(StrEnum):
    """When the kubelet pulls an image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class PvcSource(ApiModel):
    """A PersistentVolumeClaim, mounted read-only at /models."""

    claim_name: str = Field(
        min_length=1, max_length=253, description="Name of the PersistentVolumeClaim, in the fleet's namespace."
    )
    path: RelativePath = Field(
        default=".", description="Directory or .gguf file inside the volume, relative to its root."
    )


class HostPathSource(ApiModel):
    """A directory or file of the node, mounted read-only at /models."""

    path: AbsolutePath = Field(
        description="Absolute path, on every node the pods may run on, of a Hugging Face directory or a .gguf file."
    )


class ImageSource(ApiModel):
    """An OCI image mounted as a read-only volume at /models."""

    reference: str = Field(min_length=1, max_length=1024, description="Image reference, by tag or digest.")
    pull_policy: PullPolicy = Field(
        default=PullPolicy.IF_NOT_PRESENT, description="When the kubelet pulls the model image."
    )
    path: RelativePath = Field(
        default=".", description="Directory or .gguf file inside the image, relative to its root."
    )


class PackedSource(ApiModel):
    """A model that is part of the engine image."""

    path: AbsolutePath = Field(
        description="Absolute path, inside the engine image, of a Hugging Face directory or a .gguf file."
    )


class ModelSource(ApiModel):
    """Exactly one place to read the model from."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.pvc), has(self.hostPath), has(self.image), has(self.packed)].filter(x, x).size() == 1",
            "exactly one of spec.model.source.pvc, hostPath, image, packed must be set",
        ),
    )

    pvc: PvcSource | None = Field(default=None, description="The model lies on a PersistentVolumeClaim.")
    host_path: HostPathSource | None = Field(default=None, description="The model lies on the node's disk.")
    image: ImageSource | None = Field(default=None, description="The model is an OCI image, mounted as a volume.")
    packed: PackedSource | None = Field(default=None, description="The model is inside the engine image.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len([source for source in self._given() if source is not None]) != 1:
            raise ValueError("exactly one of pvc, hostPath, image, packed must be set")
        return self

    def _given(self) -> tuple[PvcSource | HostPathSource | ImageSource | PackedSource | None, ...]:
        return (self.pvc, self.host_path, self.image, self.packed)

    @property
    def chosen(self) -> PvcSource | HostPathSource | ImageSource | PackedSource:
        """The one source that is set, for `match`."""
        return next(source for source in self._given() if source is not None)


ModelName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Rule(
        r"!self.matches('[\\p{Cc}\\p{Zl}\\p{Zp}]')",
        "spec.model.servedName must hold no control characters (line breaks, tabs): clients write it into a request's `model`",
    ),
]


class Model(ApiModel):
    """The model that a fleet serves."""

    served_name: ModelName | None = Field(
        default=None,
        description="Name that clients put in a request's `model`. Default: the last part of the source's path without "
        ".gguf, or the fleet's name when the path is the volume's root.",
    )
    source: ModelSource = Field(description="Where the model comes from: exactly one of its fields.")

    def name_in(self, fleet: str) -> str:
        """The served name of this model in the fleet called `fleet`."""
        if self.served_name is not None:
            return self.served_name
        return PurePosixPath(self.source.chosen.path).name.removesuffix(".gguf") or fleet
