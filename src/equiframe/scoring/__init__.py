"""Requests to a language model, and the engine that answers them."""
