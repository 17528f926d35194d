"""The Trio tasks that run a protocol core against the interfaces, in one nursery."""
