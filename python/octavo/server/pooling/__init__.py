"""The routes of models that pool: embeddings, scores, classes.

protocol (the wire) → fields (what a body may have) → inputs (prompts) → pool (through the engine) → embeddings,
scoring, classify (the answers) → routes
"""
