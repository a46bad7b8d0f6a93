"""Flows: which packets belong to what this host has begun or answered, as `pass established` wants to know.

    host --leaving--> [ new flows ] --confirmed--> [ known flows ]
    host <-arriving-- is it of a flow in either?

layout      the two tables in one array, and a flow's words
tracking    what a packet that leaves or arrives does to them: written once, for all targets
changes     what is done to one flow in one table, by many processors at once
flow_table  the state object that a packet function uses
lowering    the same in compiled code
"""
