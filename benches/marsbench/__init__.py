"""The rows of `make bench`, and what they share."""
