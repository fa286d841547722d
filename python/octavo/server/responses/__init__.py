"""OpenAI's Responses API: a conversation as items, over the same engine as chat.

routes.py → request.py (fields → a chat request; items.py: input items → messages)
          → conversation.py of the server → output.py (parts → items and events) → store.py
"""
