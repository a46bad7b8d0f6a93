"""`raceway doctor`: what this machine can do for raceway, and what to do about what it cannot.

    findings     one sentence each, how grave it is, and a one-line remedy
    attempts     how a thing is tried, and what its failure means
    kernel       the kernel's features, one by one, each by using it in a place of its own
    machine      capabilities, limits, processors
    device       one interface: driver, queues, XDP mode, offloads, MTU, interrupts; looked at, not touched
    trial        with --try: XDP and AF_XDP on that interface itself, for a moment
    counters     where packets were lost, stage by stage: NIC, XDP, socket, ring, program
    show         for people and for programs

Nothing that is found by trying leaves a trace: it is done in a network namespace that nobody else is in and that goes
with the thread, or with descriptors that are closed. What takes a privilege that the caller has not is "unknown", with
the command that answers it, and never "no".
"""
