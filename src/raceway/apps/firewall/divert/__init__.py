"""`divert NAME`: packets that a rule hands to a Python function, which decides, and back into the host's stack.

    wire --> firewall (XDP) --REDIRECT--> rings of the interface --> loop --PASS--> host's stack
                     |                          (AF_XDP)              |
                     +--PASS--> host's stack                          +--DROP--> the end

The rules' function puts a mark before each packet that it diverts, which says to whom; so what is in the rings at a
reload still goes to the function that the rule of its time has named. The loop takes the mark off, asks the function,
and puts what it passes into the interface's host ring: it arrives at the host as if it had come in on the interface,
behind the firewall, which it does not meet again.

records     what the loop knows; the mark
loop        the data plane
inspector   a function that a name stands for, native or plain Python, and what became of its packets
rings       the interface's receive rings beside the firewall, and the way back to its host
diverter    all of it together, in a thread
"""
