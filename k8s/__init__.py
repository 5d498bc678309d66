"""The launcher: run file to manifests, and following them on a cluster. Never imports torch."""
