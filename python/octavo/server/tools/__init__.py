"""Tools, from the request's definitions to the calls in the answer.

definitions (what may be called) → choice (which calls are wanted, and the grammar that forces them) → registry (the
parser for the model's format: marked and bare JSON, mistral, pythonic, xml, harmony) → markup.Sink.
"""
