"""Pictures: reading them, a colour for every cluster, and what became of their tokens drawn over them."""
