"""Everything the gradients tell, as equations in the image: of chains, of opened networks, of any network."""
