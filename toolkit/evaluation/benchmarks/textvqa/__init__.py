"""TextVQA: its questions and annotations, its metric."""
