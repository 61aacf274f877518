"""The configuration of one node: a TOML file, the environment, flags.

What lives here: the shape of the file, what each key accepts, and the rules
that hold between keys.  Later sources win: file, then ``PACELINE_*``, then
flags.  Nothing here opens a socket or knows what a setting does; whether a
durability text makes sense is the core's to say.

Two ways to be part of a cluster, never both:

- ``[[cluster.members]]``: the founding members, equal in every file, with
  ``leader`` naming the one that founds the cluster and leads first.  A node's own row must equal what it
  advertises, so three files either form one cluster or none.
- ``join = [...]`` in ``[cluster]``: peer addresses of a running cluster.
  Everything else is learned from it.

A node that names itself leader and lists nobody founds a cluster of one.

``authority`` in ``[cluster]``: ``auto`` (the voters elect, the default) or ``designated`` (only
``leader`` ever leads).  It counts when the cluster is founded; afterwards the cluster knows.

Traffic is clear text and nobody is asked for a password yet, so an address
beyond loopback is refused unless ``insecure = true`` says that this is meant.
Every error names the source, the key, the value and what was expected.
"""

from __future__ import annotations

from paceline.config.keys import ENVIRONMENT, KEYS, split_address
from paceline.config.load import load
from paceline.config.shape import Member, NodeConfig, Settings, to_toml

__all__ = [
    "ENVIRONMENT",
    "KEYS",
    "Member",
    "NodeConfig",
    "Settings",
    "load",
    "split_address",
    "to_toml",
]
