"""The commands of ``soundkeep-trainer``, one module each; ``trainer.cli`` lists them."""
