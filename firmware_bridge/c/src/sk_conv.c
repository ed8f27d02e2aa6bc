/* Convolution in float: four output channels at a time, so each input is loaded once for four products. */
#include "soundkeep/sk_kernels.h"

void sk_conv_float32(const sk_op *op, const float *in, float *out)
{
    const uint32_t in_c = op->in_c, out_c = op->out_c;
    const uint32_t row = (uint32_t)op->in_w * in_c;
    const uint32_t tap = 4u * in_c, group = tap * op->kernel_h * op->kernel_w;
    uint32_t y, x, c, i;
    for (y = 0u; y < op->out_h; y++) {
        for (x = 0u; x < op->out_w; x++) {
            const int32_t top = (int32_t)(y * op->stride_h) - op->pad_top;
            const int32_t left = (int32_t)(x * op->stride_w) - op->pad_left;
            /* Taps inside the map. Those of one row lie side by side, in the map as in the weights: one run. */
            const int32_t first_y = top < 0 ? -top : 0, first_x = left < 0 ? -left : 0;
            const int32_t end_y = op->in_h - top < op->kernel_h ? op->in_h - top : op->kernel_h;
            const int32_t end_x = op->in_w - left < op->kernel_w ? op->in_w - left : op->kernel_w;
            const uint32_t run = (uint32_t)(end_x - first_x) * in_c;
            const float *w = op->weights;
            for (c = 0u; c < out_c; c += 4u, w += group) {
                const float *bias = (const float *)op->bias + c;
                float s0 = bias[0], s1 = bias[1], s2 = bias[2], s3 = bias[3];
                int32_t ky;
                for (ky = first_y; ky < end_y; ky++) {
                    const float *a = in + (uint32_t)(top + ky) * row + (uint32_t)(left + first_x) * in_c;
                    const float *v = w + (uint32_t)(ky * op->kernel_w + first_x) * tap;
                    for (i = 0u; i < run; i++, v += 4) {
                        const float value = a[i];
                        s0 += value * v[0];
                        s1 += value * v[1];
                        s2 += value * v[2];
                        s3 += value * v[3];
                    }
                }
                {
                    const float s[4] = {s0, s1, s2, s3};
                    for (i = 0u; i < 4u && c + i < out_c; i++)
                        *out++ = op->relu != 0u && s[i] < 0.0f ? 0.0f : s[i];
                }
            }
        }
    }
}
