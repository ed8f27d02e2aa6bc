/* The steps of a network. Each takes its step's table and pointers into the arena; none of it needs more memory.
 *
 * float: sums in a fixed order, one accumulator for each output. int8: sums of products in int32, exact, so the order
 * does not matter and any processor's instructions may be used; then one rescaling, halves away from zero. */
#ifndef SOUNDKEEP_SK_KERNELS_H
#define SOUNDKEEP_SK_KERNELS_H

#include "soundkeep/sk_plan.h"

/* round(value * multiplier / 2^shift), halves away from zero. */
int32_t sk_rescale(int32_t value, sk_scaling scaling);

void sk_conv_float32(const sk_op *op, const float *in, float *out);
void sk_conv_int8(const sk_op *op, const int8_t *in, int8_t *out);
void sk_read_out_int8(const sk_op *op, const int8_t *in, float *out);

/* out may be a or b. */
void sk_add_float32(const sk_op *op, const float *a, const float *b, float *out);
void sk_add_int8(const sk_op *op, const int8_t *a, const int8_t *b, int8_t *out);

/* SK_OP_MEAN and SK_OP_MAX. */
void sk_pool_float32(const sk_op *op, const float *in, float *out);
void sk_pool_int8(const sk_op *op, const int8_t *in, int8_t *out);

#endif
