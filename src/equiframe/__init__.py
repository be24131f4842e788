"""See, measure and reduce the social bias of language models by the geometry of neural collapse."""
