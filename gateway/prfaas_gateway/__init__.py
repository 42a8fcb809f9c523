"""The request path of one region: an OpenAI-compatible gateway."""
