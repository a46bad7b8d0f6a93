"""`raceway firewall top`: rates, drops by name, and who sends the most.

talkers     who sends the most, from samples, while somebody watches
top         rates from two looks
screen      a look as lines
watching    a terminal, and its keys
"""
