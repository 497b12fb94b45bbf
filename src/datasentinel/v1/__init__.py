"""The messages of `datasentinel.v1`."""
