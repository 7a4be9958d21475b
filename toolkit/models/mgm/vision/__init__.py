"""Images to tower features: pixels, the two frozen towers, patch-info mining, and the features' cache on disk."""
