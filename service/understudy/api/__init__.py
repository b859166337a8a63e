"""What callers call: predictions, labels, the rollout and its orders, the dashboard, and their OpenAPI document."""
