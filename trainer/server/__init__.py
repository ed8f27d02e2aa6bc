"""The resync server: takes up what a fleet learnt, sums it exactly, has the backbone adapted, publishes bundles."""
