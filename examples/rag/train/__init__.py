"""How the bundled model for documents is made. Not needed to use it."""
