"""The firewall: rules on a live interface, in the kernel, before the host's stack sees a packet.

    rules file -> language, expression, matching -> rules -> program -> controller -> XDP
                  importing (ClassBench, lists)               |
                                                              +-> judging: what would become of a packet

text        what an operator wrote, and errors that show it
lists       files of addresses
matching    conditions as trees, trees as boxes
program     a rule set as a packet function and its state
judging     packets of a capture, through the same function
controller  a program on an interface: reload, counters, what happens at the end
divert      packets that a rule hands to a Python function, and back into the host's stack
control     talking to a controller from another process
sampling    the ring of what rules log; log writes it to a file
talkers     who sends the most, from samples, while somebody watches
top         rates from two looks; screen and watching show them
"""
