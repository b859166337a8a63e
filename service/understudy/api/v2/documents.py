"""Responses of the Open Inference Protocol. OpenAPI is generated from them."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from understudy.documents import Document
from understudy.domain import JsonObject, Variant

Parameters = Annotated[JsonObject, Meta(description="parameters that are not known are ignored")]
Shape = Annotated[list[int], Meta(description="-1 stands for any number", examples=[[-1, 1]])]


class V2Error(Document):
    """An error of the protocol."""

    error: str


class V2Server(Document):
    """The server's name, version and extensions."""

    name: str
    version: str
    extensions: list[str]


class V2Health(Document):
    """Liveness and readiness."""

    live: bool
    ready: bool | UnsetType = UNSET


class V2Ready(Document):
    """Whether a model can answer."""

    name: str
    ready: bool


class V2Tensor(Document):
    """Name, type and shape of a tensor."""

    name: str
    datatype: Annotated[str, Meta(examples=["FP32", "BYTES"])]
    shape: Shape
    parameters: Parameters | UnsetType = UNSET


class V2OutputTensor(V2Tensor):
    """One output of a response."""

    data: Annotated[list[Any], Meta(description="flat; absent with `binary_data_size` in `parameters`")] | UnsetType = (
        UNSET
    )


class V2Model(Document):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[V2Tensor]
    outputs: list[V2Tensor]


class V2ResponseParameters(Document):
    """The variant that answered, and the prediction id of the first row. The id of row i ends in a number that is i higher."""

    variant: Variant
    fallback: bool
    prediction_id: str


class V2InferResponse(Document):
    """The outputs of a prediction."""

    model_name: str
    model_version: str
    parameters: V2ResponseParameters
    outputs: list[V2OutputTensor]
    id: str | UnsetType = UNSET
