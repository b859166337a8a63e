"""What the service shows of itself: metrics, figures over time, the host, monitoring rules, webhooks."""
