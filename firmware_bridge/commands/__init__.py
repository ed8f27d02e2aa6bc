"""The commands of ``soundkeep-bridge``, one small module for those that belong together."""
