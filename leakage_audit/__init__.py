"""Watch, while a network trains, how much of its training images the gradients give away."""
