"""The door for raw websocket and HTTP clients. It knows frames, not databases."""
