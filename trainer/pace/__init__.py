"""PACE: adapt a backbone in the first sessions of a stream of classes, then freeze it and learn exactly.

Source: Li, Zhou, Wang, "PACE" (ICLR 2026, arXiv 2602.03355). Where the paper is silent a setting says so
(``trainer.pace.settings``).
"""
