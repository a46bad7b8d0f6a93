"""`raceway demo`: a recording with a scan and two floods in it, between two processes, through one packet function.

    sender.py  -- its own process: reads the recording, sends it into the pipe's end {1
    tape.py    -- the recording, again and again, with a clock that goes on
    journey.py -- the pipe's end }1, the function, the file: what runs, and what is counted
    measure.py -- what one packet costs, native and interpreted, in memory
    listing.py -- the function's source, and which of its lines drops by which rule
    screen.py  -- all that as rows of text, for a terminal of any size, a picture or a pipe
    demo.py    -- the tool: puts these together, and cleans up after Ctrl-C
    firewall.py -- the packet function itself, made to be copied

Nothing is shown that was not measured in this very run.
"""
