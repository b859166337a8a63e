"""Models of every kind, made here, each played through every door of the service and compared with `InferenceSession.run`."""
