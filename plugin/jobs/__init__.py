"""The durable queue: what is to be done, by whom, and how it ended."""
