"""`null:` swallows what is sent to it, and supplies packets for ever: the other side of every measurement."""
