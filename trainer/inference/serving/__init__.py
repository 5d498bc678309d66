"""The server: OpenAI's API over one model, and a chat page. See docs/serving.md."""
