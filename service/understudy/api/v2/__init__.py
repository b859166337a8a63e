"""The Open Inference Protocol (KServe V2) over REST, with the binary tensor extension, as Triton's client speaks it.

`tensors` reads and writes one tensor, `codec` whole requests and answers in the signature of what is asked, `describe` has
the OpenAPI of the calls, `handlers` answers them. Predictions go the same way as `POST /predict`'s.
"""
