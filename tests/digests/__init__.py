"""Digests of what the kernel computes, one for each call: every instruction set but the baseline has the same ones.

``python -m tests.digests`` prints them as JSON; the tests compare what different instruction sets print.
"""
