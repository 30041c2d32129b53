"""The joint attack's solver: Gauss-Newton that trusts equations as far as they hold, with a Jacobian or without."""
