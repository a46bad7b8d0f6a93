"""Network interfaces through packet sockets (AF_PACKET): what every Linux and every device can do."""
