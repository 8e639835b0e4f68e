"""Other people's weights: their names for our parameters, and the way there and back. The README has the parity table."""
