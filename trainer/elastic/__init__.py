"""Starting and supervising training processes."""
