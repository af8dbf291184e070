"""What the daemon shows: metrics, JSON and the page."""
