"""`raceway filter`: from one capture file to another, through a pcap filter expression.

`passes` are the compiled loops over a window of the file (find the packets, write the accepted ones), `judges` say of
the packets between the two how many bytes of each are accepted, on the target that was asked for, and `run` is the
control plane that joins them.
"""
