"""Runs what Triton compiles for an H100, instruction by instruction, without a card.

Triton's interpreter runs the programs as they are written. This runs the PTX that the compiler makes of them: its
order of sums, its exchanges between threads, its conversions and its fused operations. It also finds what only a card
would show: an address outside the operands or not aligned, threads that race, a barrier that some of them miss.

- ``code``: reads PTX.
- ``arithmetic``: rounds as PTX says; what PTX calls approximate is wrong on purpose, as far as it may be.
- ``memory``: the operands, and the memory that the threads of a block share.
- ``registers``, ``values``, ``instructions``: what each instruction does.
- ``machine``: runs the blocks.
- ``driver``: takes the place of a card's driver beneath Triton, whose own launcher calls it.
- ``host``: times what the host does for a launch, where the driver does nothing.
"""
