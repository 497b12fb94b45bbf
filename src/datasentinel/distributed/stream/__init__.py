"""A model that answers what comes through a message broker."""
