"""Networks that turn a window of sound into an embedding, all behind ``trainer.backbones.backbone.Backbone``."""
