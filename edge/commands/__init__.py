"""The commands of ``soundkeep``, by theme. Each module is imported when one of its commands is called."""
