/* Log-mel frames of a stream, for a device that sends features instead of sound. The logarithms are to the base 2 in
 * steps of 1/256, SK_MEL_SILENT for no power; a frame begins every frame_hop samples. */
#ifndef SOUNDKEEP_SK_MEL_H
#define SOUNDKEEP_SK_MEL_H

#include "soundkeep/sk_frontend.h"

#define SK_MEL_SILENT (-32768)
#define SK_MEL_MAX_FRAME 512u /* samples of a frame, and points of its FFT */
#define SK_MEL_MAX_BANDS 128u

typedef struct sk_mel {
    const sk_front_end *front_end;
    uint16_t n; /* samples that wait */
    int16_t waiting[SK_MEL_MAX_FRAME];
    float scratch[SK_SCRATCH_FLOATS(SK_MEL_MAX_FRAME)];
    float bands[SK_MEL_MAX_BANDS];
} sk_mel;

/* Returns 0, or -1 for a front end that is too large. */
int sk_mel_init(sk_mel *mel, const sk_front_end *front_end);

/* Forget what waits: sound was lost, or somebody begins to listen. */
void sk_mel_reset(sk_mel *mel);

/* Takes n samples at most and stops at the frame that they complete. *used: how many were taken. Returns 1 with n_bands
 * logarithms in logs; 0 when all n were taken and no frame is whole yet. After a 1, samples of the frame that still wait
 * are mel->n: the frame began n + frame_hop samples before the next sample. */
int sk_mel_push(sk_mel *mel, const int16_t *pcm, uint32_t n, uint32_t *used, int16_t *logs);

#endif
