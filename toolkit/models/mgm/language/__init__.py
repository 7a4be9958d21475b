"""Text and training: conversation template, merging with image embeddings, Gemma's decoder, and the loss."""
