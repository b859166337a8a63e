"""The Open Inference Protocol (KServe V2) over REST, with the binary tensor extension, as Triton's client speaks it.

`tensors` decodes and encodes one tensor, `codec` whole requests and responses in the signature of a model, and `outputs` maps the
outputs of two models. `infer` and `metadata` are the handlers; `documents` and `describe` are what OpenAPI is generated from.
Predictions take the same path as those of `POST /predict`.
"""
