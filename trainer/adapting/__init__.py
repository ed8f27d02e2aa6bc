"""From a folder of sounds and a backbone to an adapted checkpoint: the run, what it keeps on disk, what it shows."""
