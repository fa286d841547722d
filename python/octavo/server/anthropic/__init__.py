"""Anthropic's Messages API over the same engine as chat.

    routes.py → request.py (fields → a chat request; blocks.py: content blocks → messages)
              → conversation.py of the server → making.py → output.py (parts → content blocks and events)

The format: https://docs.anthropic.com/en/api/messages
"""
