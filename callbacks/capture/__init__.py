"""What is read off a training step, and how it is read without a trace."""
