"""The WAMP side: the routers, and what nodes do on them."""
