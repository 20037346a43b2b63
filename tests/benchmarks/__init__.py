"""How long things take and how much they need; nothing here is asserted."""
