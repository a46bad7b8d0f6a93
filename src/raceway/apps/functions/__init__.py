"""Packet functions on interfaces: `raceway.attach`, and what the command line shows of them.

attaching   `attach`: one function or a chain of them on an interface or a port
expressions two packet functions of a filter expression: drop what it accepts, or the rest
listing     the functions that are attached on this machine, by whomever, and taking them off
pinning     names that keep a chain when its process has ended
occupied    why an interface cannot be had: whose functions are there
"""
