"""eftchat: a group chat that loses nothing. Every room is a durable log; everything else is a hint or a cursor."""

__version__ = "0.1.0.dev0"
