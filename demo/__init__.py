"""The demo: a real data set, a real cluster, real crashes, and proofs at the end (``make demo``)."""
