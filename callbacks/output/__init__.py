"""Where an audit's results go."""
