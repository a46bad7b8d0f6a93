"""Moving packets from one port to another: bridge, dump and replay are this one loop, differently asked.

`records` says what the loop knows, `move` carries one packet, `pacing` says when it may go, `loop` is the loop;
`forwarder` is its control plane.
"""
