"""What a process of ours says of itself: a line for each record, and nobody ever waits for whoever reads them."""
