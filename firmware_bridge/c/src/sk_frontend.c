/* A frame of 2n real samples is one complex FFT of n points: even samples real, odd ones imaginary. */
#include "soundkeep/sk_frontend.h"

#include "soundkeep/sk_math.h"

/* Write the windowed frame as n complex numbers in bit-reversed order, with zeros behind its end. */
static void load(const sk_front_end *fe, const int16_t *pcm, float *z)
{
    const uint32_t n = fe->n_fft / 2u;
    const float *w = fe->window;
    uint32_t i, bit, place = 0u;
    for (i = 0u; i < n; i++) {
        const uint32_t even = 2u * i;
        z[2u * place] = even < fe->frame_length ? (float)pcm[even] * w[even] : 0.0f;
        z[2u * place + 1u] = even + 1u < fe->frame_length ? (float)pcm[even + 1u] * w[even + 1u] : 0.0f;
        for (bit = n / 2u; (place & bit) != 0u; bit /= 2u)
            place ^= bit;
        place |= bit;
    }
}

/* Radix-2 FFT in place, decimation in time; twiddles of 2n points are there, so those of n are every second. */
static void transform(float *restrict z, uint32_t n, const float *restrict twiddles)
{
    uint32_t half, start, k;
    for (start = 0u; start < 2u * n; start += 4u) {
        float *p = z + start;
        const float re = p[2], im = p[3];
        p[2] = p[0] - re;
        p[3] = p[1] - im;
        p[0] += re;
        p[1] += im;
    }
    for (half = 2u; half < n; half *= 2u) {
        const uint32_t step = 2u * (n / half);
        for (start = 0u; start < 2u * n; start += 4u * half) {
            float *a = z + start, *b = a + 2u * half;
            const float *t = twiddles;
            for (k = 0u; k < half; k++) {
                const float re = b[0] * t[0] - b[1] * t[1];
                const float im = b[0] * t[1] + b[1] * t[0];
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
                a += 2;
                b += 2;
                t += step;
            }
        }
    }
}

/* Squared magnitudes of the n + 1 frequencies of 2n real samples, out of their n-point transform. */
static void powers_of(const float *z, uint32_t n, const float *twiddles, float *power)
{
    uint32_t k;
    const float sum = z[0] + z[1], difference = z[0] - z[1];
    power[0] = sum * sum;
    power[n] = difference * difference;
    for (k = 1u; k < n; k++) {
        const float *a = z + 2u * k, *b = z + 2u * (n - k), *t = twiddles + 2u * k;
        const float even_re = 0.5f * (a[0] + b[0]), even_im = 0.5f * (a[1] - b[1]);
        const float odd_re = 0.5f * (a[1] + b[1]), odd_im = 0.5f * (b[0] - a[0]);
        const float re = even_re + (odd_re * t[0] - odd_im * t[1]);
        const float im = even_im + (odd_re * t[1] + odd_im * t[0]);
        power[k] = re * re + im * im;
    }
}

void sk_frame_powers(const sk_front_end *fe, const int16_t *pcm, float *scratch, float *bands, uint32_t stride)
{
    const uint32_t n = fe->n_fft / 2u;
    float *power = scratch + fe->n_fft;
    const float *filter = fe->filters;
    uint32_t b, i;
    load(fe, pcm, scratch);
    transform(scratch, n, fe->twiddles);
    powers_of(scratch, n, fe->twiddles, power);
    for (b = 0u; b < fe->n_bands; b++) {
        const float *p = power + fe->first_bin[b];
        float sum = 0.0f;
        for (i = 0u; i < fe->n_bins[b]; i++)
            sum += *filter++ * p[i];
        bands[b * stride] = sum;
    }
}

float sk_window_powers(const sk_front_end *fe, const int16_t *pcm, float *scratch, float *powers)
{
    uint32_t t, b;
    float total = 0.0f;
    for (t = 0u; t < fe->n_frames; t++) {
        float frame = 0.0f;
        sk_frame_powers(fe, pcm + (uint32_t)fe->frame_hop * t, scratch, powers + t, fe->n_frames);
        for (b = 0u; b < fe->n_bands; b++)
            frame += powers[b * fe->n_frames + t];
        total += frame;
    }
    return total / (float)((uint32_t)fe->n_bands * fe->n_frames) + fe->level_floor;
}

float sk_feature(const sk_front_end *fe, float power, float level)
{
    return fe->scale * sk_log(power / level + fe->relative_floor) + fe->shift;
}
