"""What an audit says of an image: proven and limit, the status they add up to, and the metrics made of them."""
