"""Network interfaces: every queue a ring pair, through AF_XDP, and fast transmission by live XDP frames."""
