"""The firewall: rules on a live interface, in the kernel, before the host's stack sees a packet.

    rules -> program -> controller -> XDP
             |          |-> control: questions from other processes
             |          |-> outgoing, divert, log, watch
             +-> judging: what would become of a packet

rules       what an operator writes, read
program     a rule set as a packet function and its state
judging     packets of a capture, through the same function
controller  a program on an interface: reload, counters, what happens at the end
outgoing    what the host sends, for established flows
divert      packets that a rule hands to a Python function, and back into the host's stack
control     talking to a controller from another process
log         what rules log, into a file
watch       the live screen
collection  rules are made without Python's collector
"""
