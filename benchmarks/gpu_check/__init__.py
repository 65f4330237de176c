"""What a card shows of the engine and of what might make it faster: checks in one command of minutes."""
