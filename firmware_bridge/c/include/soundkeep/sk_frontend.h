/* From sound to log-mel features, frame by frame: window, real FFT, powers, bands; then level and logarithm. */
#ifndef SOUNDKEEP_SK_FRONTEND_H
#define SOUNDKEEP_SK_FRONTEND_H

#include "soundkeep/sk_plan.h"

/* Numbers of scratch that one frame needs: the FFT works in n_fft of them, the rest holds the powers. */
#define SK_SCRATCH_FLOATS(n_fft) ((n_fft) + (n_fft) / 2u + 1u)

/* Band powers of one frame. pcm: frame_length samples. Writes band b to bands[b * stride]. */
void sk_frame_powers(const sk_front_end *fe, const int16_t *pcm, float *scratch, float *bands, uint32_t stride);

/* Band powers (n_bands, n_frames) of a window; returns their mean plus level_floor. */
float sk_window_powers(const sk_front_end *fe, const int16_t *pcm, float *scratch, float *powers);

/* The feature that belongs to a power, given what sk_window_powers returned. */
float sk_feature(const sk_front_end *fe, float power, float level);

/* Features of a window in int8, (n_bands, n_frames), to arena + model->powers. */
void sk_features_int8(const sk_model *model, const int16_t *pcm, unsigned char *arena);

#endif
