"""The road of a prediction: route, infer, rehearse, under the plan that holds."""
