"""The rules of the chat as pure values and functions: no I/O, no clock, no chance."""
