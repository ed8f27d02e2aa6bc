"""A small ear from large teachers: windows, the teachers' answers, and a student that learns to answer alike."""
