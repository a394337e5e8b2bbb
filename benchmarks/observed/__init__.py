"""Dashboard and alerts against a real Prometheus; and one request's trace."""
