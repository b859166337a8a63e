"""Metrics, time series, host information, monitoring rules and webhooks."""
