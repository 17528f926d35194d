"""The Raft protocol, sans-IO: values in, values out.

Nothing here awaits, reads a clock, draws randomness of its own, logs, or touches a file or socket. The names and rules
are those of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", extended
version, cited as "Raft §") and of Ongaro's dissertation (cited as "thesis §").
"""
