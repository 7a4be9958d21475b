"""Images of training rows and questions: loading, and preprocessing to squares of one size."""
