"""What first-order attacks share: distances of gradients, total variation, a network's end."""
