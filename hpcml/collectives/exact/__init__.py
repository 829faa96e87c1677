"""Sums of floats that are the same bits whatever the order, the algorithm, the split and the number of ranks.

The result is defined without any order: it is the exact sum of all summands, rounded once, to nearest, ties to even.
What remains is to compute just that:

- `accumulator`: a float as a fixed-point number in integer limbs, whose sum is exact and free of order;
- `kernels`: the exact sum of a few rows, column by column: in pairs of float64 where that proves exact, which it
  nearly always does, in an accumulator elsewhere;
- `limbs`: whole arrays as accumulators and back;
- `direct`, `wide`: the two ways of a sum over ranks, by an all-to-all of floats and by a sum of accumulators;
- `summation`: which of them, slab by slab;
- `ordering`: minimum and maximum free of order, NaNs and zeros of either sign included.

Special values: a NaN, or infinities of both signs, give NumPy's `nan`; infinities of one sign give
that infinity. A sum of zero is +0 unless all summands are −0. A sum beyond the largest float is infinite; partial sums
beyond it do no harm.
"""
