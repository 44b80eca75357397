"""`eftchat cluster`: a whole cluster on one machine, to try, to break and to trust.

Everything is real: routers and nodes are the processes that a production cluster runs, the database is a replica set,
a balancer stands in front. `cluster.Cluster` can be used from a test; the command is a thin shell around it.
"""
