"""Between the processes of a host: frames over a socket, files that say how each is."""
