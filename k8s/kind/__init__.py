"""The local cluster: its tools, built from pinned sources, and what the end-to-end tests need."""
