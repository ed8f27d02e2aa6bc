/* Convolution in int8: exact sums in int32, four output channels at a time, then one rescaling for each output.
 *
 * The weights of a tap lie in blocks of four inputs, [input / 4][output 4][input 4]; inputs beyond the last whole block
 * as [input][output 4]. So a processor that multiplies pairs (Cortex-M4, M7, M33: SMLAD) loads four weights at once. The
 * sums are whole numbers: both ways give the same. */
#include "soundkeep/sk_kernels.h"

#include <string.h>

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && !defined(SK_PORTABLE)
#include <arm_acle.h>
#define SK_PAIRS 1
#endif

int32_t sk_rescale(int32_t value, sk_scaling scaling)
{
    const int64_t product = (int64_t)value * scaling.multiplier;
    const uint64_t half = (uint64_t)1 << (scaling.shift - 1u);
    if (product < 0)
        return -(int32_t)(((uint64_t)-product + half) >> scaling.shift);
    return (int32_t)(((uint64_t)product + half) >> scaling.shift);
}

#ifdef SK_PAIRS
static uint32_t word_at(const int8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* Four inputs less their zero point, as two pairs. */
typedef struct four {
    int16x2_t even, odd;
} four;

static inline four four_at(const int8_t *a, uint32_t zeros)
{
    const uint32_t word = word_at(a);
    const four x = {__ssub16(__sxtb16((int8x4_t)word), (int16x2_t)zeros),
                    __ssub16(__sxtb16((int8x4_t)(word >> 8)), (int16x2_t)zeros)};
    return x;
}

static inline int32_t plus_products(int32_t sum, four x, const int8_t *v)
{
    const uint32_t word = word_at(v);
    sum = __smlad(x.even, __sxtb16((int8x4_t)word), sum);
    return __smlad(x.odd, __sxtb16((int8x4_t)(word >> 8)), sum);
}
#else
/* Four inputs less their zero point. */
typedef struct four {
    int32_t at[4];
} four;

static inline four four_at(const int8_t *a, uint32_t zeros)
{
    const int32_t zero = (int32_t)(zeros & 0xffffu) - (int32_t)((zeros & 0x8000u) << 1);
    const four x = {{a[0] - zero, a[1] - zero, a[2] - zero, a[3] - zero}};
    return x;
}

static inline int32_t plus_products(int32_t sum, four x, const int8_t *v)
{
    return sum + x.at[0] * v[0] + x.at[1] * v[1] + x.at[2] * v[2] + x.at[3] * v[3];
}
#endif

/* Sums of one group of four output channels at one place. */
static void sums_at(const sk_op *op, const int8_t *in, const int8_t *w, int32_t top, int32_t left, int32_t *sums)
{
    const uint32_t in_c = op->in_c;
    const int32_t zero = op->zero_in;
    const int32_t first_y = top < 0 ? -top : 0, first_x = left < 0 ? -left : 0;
    const int32_t end_y = op->in_h - top < op->kernel_h ? op->in_h - top : op->kernel_h;
    const int32_t end_x = op->in_w - left < op->kernel_w ? op->in_w - left : op->kernel_w;
    const uint32_t zeros = ((uint32_t)zero & 0xffffu) | (uint32_t)zero << 16;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    /* Taps of one row lie side by side, in the map as in the weights: one run of them where blocks never straddle. */
    const int32_t n_taps = in_c % 4u == 0u ? end_x - first_x : 1;
    const uint32_t n = (uint32_t)n_taps * in_c, whole = n & ~3u;
    int32_t ky, kx;
    uint32_t i;
    for (ky = first_y; ky < end_y; ky++) {
        for (kx = first_x; kx < end_x; kx += n_taps) {
            const int8_t *a = in + ((uint32_t)(top + ky) * op->in_w + (uint32_t)(left + kx)) * in_c;
            const int8_t *v = w + (uint32_t)(ky * op->kernel_w + kx) * 4u * in_c;
            for (i = 0u; i < whole; i += 4u, v += 16) {
                const four x = four_at(a + i, zeros);
                s0 = plus_products(s0, x, v);
                s1 = plus_products(s1, x, v + 4);
                s2 = plus_products(s2, x, v + 8);
                s3 = plus_products(s3, x, v + 12);
            }
            for (; i < n; i++, v += 4) {
                const int32_t value = a[i] - zero;
                s0 += value * v[0];
                s1 += value * v[1];
                s2 += value * v[2];
                s3 += value * v[3];
            }
        }
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

static void start(const sk_op *op, uint32_t c, int32_t *sums)
{
    const int32_t *bias = (const int32_t *)op->bias + c;
    sums[0] = bias[0];
    sums[1] = bias[1];
    sums[2] = bias[2];
    sums[3] = bias[3];
}

static int8_t held(int32_t value, int32_t low)
{
    return (int8_t)(value < low ? low : value > 127 ? 127 : value);
}

void sk_conv_int8(const sk_op *op, const int8_t *in, int8_t *out)
{
    const uint32_t group = 4u * (uint32_t)op->in_c * op->kernel_h * op->kernel_w;
    uint32_t y, x, c, i;
    for (y = 0u; y < op->out_h; y++) {
        for (x = 0u; x < op->out_w; x++) {
            const int32_t top = (int32_t)(y * op->stride_h) - op->pad_top;
            const int32_t left = (int32_t)(x * op->stride_w) - op->pad_left;
            const int8_t *w = op->weights;
            for (c = 0u; c < op->out_c; c += 4u, w += group) {
                int32_t sums[4];
                start(op, c, sums);
                sums_at(op, in, w, top, left, sums);
                for (i = 0u; i < 4u && c + i < op->out_c; i++)
                    *out++ = held(sk_rescale(sums[i], op->scaling[c + i]) + op->zero_out, op->low);
            }
        }
    }
}

void sk_read_out_int8(const sk_op *op, const int8_t *in, float *out)
{
    const int8_t *w = op->weights;
    uint32_t c, i;
    for (c = 0u; c < op->out_c; c += 4u, w += 4u * (uint32_t)op->in_c) {
        int32_t sums[4];
        start(op, c, sums);
        sums_at(op, in, w, 0, 0, sums);
        for (i = 0u; i < 4u && c + i < op->out_c; i++)
            out[c + i] = (float)sums[i] * op->out_scale[c + i];
    }
}
