"""What a captured step is put through: measures, attacks, scores."""
