"""The joint attack's machinery: equations in the image, and a Gauss-Newton that trusts them as far as they hold."""
