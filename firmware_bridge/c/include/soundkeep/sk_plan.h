/* A network as tables: what soundkeep-export writes and the kernels carry out, step after step, in one arena.
 *
 * Maps lie in the arena with the channel fastest: element (y, x, c) of a map is at (y * width + x) * channels + c; y is
 * the band, x the frame. Offsets are bytes from the arena's beginning. */
#ifndef SOUNDKEEP_SK_PLAN_H
#define SOUNDKEEP_SK_PLAN_H

#include <stdint.h>

#define SK_ARENA_ALIGNMENT 8u

/* Short-time spectra of a window, folded into bands, as logarithms relative to the window's own level.
 *
 * n_fft is a power of two >= frame_length. window: frame_length weights, with 1/32768 in them. twiddles: n_fft / 2
 * pairs cos, -sin of 2 pi k / n_fft. Band b sums filters over n_bins[b] powers from first_bin[b] on; the filters lie
 * one after the other. Output: scale * log(power / (mean power + level_floor) + relative_floor) + shift. */
typedef struct sk_front_end {
    uint32_t window_length;
    uint16_t frame_length, frame_hop, n_fft, n_bands, n_frames;
    const float *window;
    const float *twiddles;
    const uint16_t *first_bin;
    const uint16_t *n_bins;
    const float *filters;
    float level_floor, relative_floor, scale, shift;
} sk_front_end;

enum {
    SK_OP_CONV = 1, /* convolution, zero padding; a matrix product is one of 1 x 1 on a map of 1 x 1 */
    SK_OP_ADD,      /* sum of two maps of one shape; out may be one of them */
    SK_OP_MEAN,     /* per channel, mean over all rows and the columns from..to-1 */
    SK_OP_MAX,      /* per channel, maximum over the same */
    SK_OP_READ_OUT  /* int8 only: the last matrix product, from int8 to float */
};

/* Rescaling of a whole number: round(value * multiplier / 2^shift), halves away from zero. */
typedef struct sk_scaling {
    int32_t multiplier; /* 2^30 <= multiplier < 2^31, or 0 */
    uint8_t shift;      /* 1..62 */
} sk_scaling;

/* One step. Weights lie in groups of four output channels: [group][kernel row][kernel column][input channel][4], filled
 * up with zeros; int8 ones in blocks of four inputs (sk_conv_int8.c). For int8: bias is int32, scaling has one entry for each output channel (mean and maximum: one; add:
 * none), the zeros are zero points, low is the least output. Add: out = (a - zero_in) * factor_in + (b - zero_other) *
 * factor_other, over 2^add_shift. Read-out: out_scale has a factor for each output. */
typedef struct sk_op {
    uint8_t kind, relu;
    uint8_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
    uint16_t in_h, in_w, in_c, out_h, out_w, out_c;
    uint16_t from, to;
    uint32_t in, other, out;
    const void *weights;
    const void *bias;
    const sk_scaling *scaling;
    const float *out_scale;
    int16_t zero_in, zero_other, zero_out, low;
    int32_t factor_in, factor_other;
    uint8_t add_shift;
} sk_op;

typedef struct sk_model sk_model;

/* embedding: offset of dim float numbers, the network's output, until the next run. powers, scratch: what the front end
 * works in. int8 only: quantum, zero: a feature is (stored - zero) * quantum. */
struct sk_model {
    void (*run)(const sk_model *model, const int16_t *pcm, unsigned char *arena);
    const sk_front_end *front_end;
    const sk_op *ops;
    uint16_t n_ops, dim;
    uint32_t arena_bytes, powers, scratch, embedding;
    float quantum;
    int16_t zero;
};

/* Carry out a plan. pcm: window_length samples. arena: arena_bytes bytes at a multiple of SK_ARENA_ALIGNMENT; what it
 * held does not matter. */
void sk_run_float32(const sk_model *model, const int16_t *pcm, unsigned char *arena);
void sk_run_int8(const sk_model *model, const int16_t *pcm, unsigned char *arena);

#endif
