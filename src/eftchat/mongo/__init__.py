"""The production store: a MongoDB replica set, through txmongo. The only importer of txmongo and pymongo."""

from eftchat.mongo.address import StoreUnusable
from eftchat.mongo.connect import MongoStore, StoreUnreachable, connect
from eftchat.mongo.link import Deadlines

__all__ = ["Deadlines", "MongoStore", "StoreUnreachable", "StoreUnusable", "connect"]
