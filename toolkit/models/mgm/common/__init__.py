"""What all parts of MGM share: names of weights and tokens, and the speed switches."""
