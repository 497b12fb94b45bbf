"""A model that scores the messages of a broker."""
