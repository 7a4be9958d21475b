"""The kit's steps before training: sample budget, format conversion, batch check. No torch here."""
