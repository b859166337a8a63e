"""The path of a prediction: route, infer, fall back, rehearse, under the plan in force."""
