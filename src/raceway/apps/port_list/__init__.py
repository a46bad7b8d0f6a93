"""`raceway ports`: the raceway ports and the interfaces in use, by whom, with their counters.

    ports        the cards in every region that some process has open
    interfaces   the interfaces that have XDP or tcx programs, and whose those are
    listing      both together, and what could not be looked into
    show         for people and for programs

Nothing is asked of the processes that have the ports: what they have counted lies in their regions. So it works on a
process that hangs, and costs the one that works nothing.
"""
