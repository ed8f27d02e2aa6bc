/* Logarithm, exponential, root and rounding that give the same bits on every processor.
 *
 * The C libraries of a host and of a microcontroller differ in the last bit of logf and expf. These here are fixed
 * sequences of IEEE single-precision additions, multiplications and divisions. Compile with -ffp-contract=off, so that
 * no compiler makes one rounding of two. */
#ifndef SOUNDKEEP_SK_MATH_H
#define SOUNDKEEP_SK_MATH_H

#include <stdint.h>

/* Natural logarithm, within 1e-7 of it relative to max(1, |log x|). x below the smallest normal number: its logarithm. */
float sk_log(float x);

/* e to the x, relative error below 2e-7; x is held within -87..88. */
float sk_exp(float x);

/* Square root, within one unit in the last place; 0 for what is not a positive normal number. */
float sk_sqrt(float x);

/* Nearest whole number, halves away from zero. |x| < 2^30. */
int32_t sk_round(float x);

/* Nearest whole number, halves to the even one. |x| < 2^22. */
int32_t sk_round_even(float x);

#endif
