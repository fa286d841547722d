"""The API process: HTTP in front, the engine's client behind.

In the order of a request's life: app (routes, life cycle) → auth → body → protocol (fields) → chat (conversation) or
completions → template → sampling → engine_client → parts → logprobs → stream. Beside them: supervisor (the engine
process), metrics, models, tokenize, health, errors.
"""
