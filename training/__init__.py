"""How weights change: loss, optimizer, step, checkpoint, tracking."""
