"""The embedded store: one node, one data folder, nothing else to run."""

from eftchat.sqlite.connect import SqliteStore, StoreInUse, StoreUnusable, connect

__all__ = ["SqliteStore", "StoreInUse", "StoreUnusable", "connect"]
