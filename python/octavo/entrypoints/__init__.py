"""Where vLLM's users look for the server: `python -m octavo.entrypoints.openai.api_server` is `octavo serve`."""
