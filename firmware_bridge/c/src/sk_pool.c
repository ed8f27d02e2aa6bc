/* Means and maxima over a stretch of time, and the sum of two maps. */
#include "soundkeep/sk_kernels.h"

void sk_pool_float32(const sk_op *op, const float *in, float *out)
{
    const uint32_t width = (uint32_t)op->to - op->from;
    const float share = 1.0f / (float)(width * op->in_h);
    uint32_t c, y, x;
    for (c = 0u; c < op->in_c; c++) {
        float sum = 0.0f, most = in[(uint32_t)op->from * op->in_c + c];
        for (y = 0u; y < op->in_h; y++) {
            for (x = op->from; x < op->to; x++) {
                const float value = in[(y * op->in_w + x) * op->in_c + c];
                sum += value;
                most = value > most ? value : most;
            }
        }
        out[c] = op->kind == SK_OP_MEAN ? sum * share : most;
    }
}

void sk_pool_int8(const sk_op *op, const int8_t *in, int8_t *out)
{
    uint32_t c, y, x;
    for (c = 0u; c < op->in_c; c++) {
        int32_t sum = 0, most = -128, value;
        for (y = 0u; y < op->in_h; y++) {
            for (x = op->from; x < op->to; x++) {
                value = in[(y * op->in_w + x) * op->in_c + c];
                sum += value - op->zero_in;
                most = value > most ? value : most;
            }
        }
        value = sk_rescale(op->kind == SK_OP_MEAN ? sum : most - op->zero_in, op->scaling[0]) + op->zero_out;
        out[c] = (int8_t)(value < op->low ? op->low : value > 127 ? 127 : value);
    }
}

void sk_add_float32(const sk_op *op, const float *a, const float *b, float *out)
{
    const uint32_t n = (uint32_t)op->out_h * op->out_w * op->out_c;
    uint32_t i;
    for (i = 0u; i < n; i++) {
        const float sum = a[i] + b[i];
        out[i] = op->relu != 0u && sum < 0.0f ? 0.0f : sum;
    }
}

void sk_add_int8(const sk_op *op, const int8_t *a, const int8_t *b, int8_t *out)
{
    const uint32_t n = (uint32_t)op->out_h * op->out_w * op->out_c;
    const int32_t half = (int32_t)1 << (op->add_shift - 1u);
    uint32_t i;
    for (i = 0u; i < n; i++) {
        const int32_t sum = (a[i] - op->zero_in) * op->factor_in + (b[i] - op->zero_other) * op->factor_other;
        const int32_t size = (int32_t)(((sum < 0 ? 0u - (uint32_t)sum : (uint32_t)sum) + (uint32_t)half) >> op->add_shift);
        const int32_t value = (sum < 0 ? -size : size) + op->zero_out;
        out[i] = (int8_t)(value < op->low ? op->low : value > 127 ? 127 : value);
    }
}
