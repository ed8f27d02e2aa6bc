"""Public sets as their authors lay them out on the disk, read as lists of clips."""
